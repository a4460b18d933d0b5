"""Finding the config that `--config` names, and reading it.

    configs/stage2.py:tiny   a file, of a checkout or of one's own, anywhere
    stage2:tiny              a preset of the package, whatever the working folder
    configs/stage2.py:tiny   the same where there is no such file, as in an installed package

What stands after the colon is given to the file's `get_config`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from iso3d_jax import presets
from iso3d_jax.commands.config_presets import nearest
from iso3d_jax.core.errors import UserError


class ConfigSource(NamedTuple):
    """Where a config comes from: its name in messages, its function, what follows the colon."""

    name: str
    get_config: Callable[..., ConfigDict]
    argument: str | None


def load_config(spec: str, default: str | None = None) -> ConfigDict:
    """What `get_config` of 'file.py', 'file.py:preset', 'name' or 'name:preset' returns.

    Args:
      spec: as `--config` takes it.
      default: a spec whose preset is also meant where `spec` has the same `get_config` and names no
        preset ('file.py' and 'file.py:key=value' name none); otherwise it has the file's first.

    Raises:
      UserError: there is no such config, it is no config file, or it does not know the preset.
    """
    source = find_config(spec)
    argument = source.argument
    if default and (not argument or "=" in argument.split(",")[0]):
        own = find_config(default)
        if own.get_config is source.get_config:
            argument = ",".join(part for part in (own.argument, argument) if part)
    try:
        config = source.get_config(*([] if argument is None else [argument]))
    except UserError as error:
        raise UserError(f"{source.name}: {error}") from error
    except Exception as error:
        raise _unreadable(source.name, error) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{source.name}: get_config must return a ConfigDict")
    return config


def find_config(spec: str) -> ConfigSource:
    """The file or the package's preset that a `--config` names.

    Raises:
      UserError: there is none, or the file is no config.
    """
    match = re.fullmatch(r"(.*?\.py|[^:]*)(?::(.*))?", spec.strip(), re.DOTALL)
    path, argument = match.groups() if match else (spec, None)
    path = os.path.expanduser(path)
    if os.path.isfile(path) and (path.endswith(".py") or os.path.dirname(path)):
        return ConfigSource(path, _find_get_config(path), argument)
    name = Path(path).name.removesuffix(".py")
    if name in presets.NAMES and os.path.dirname(path) in ("", "configs"):
        module = importlib.import_module(f"{presets.__name__}.{name}")
        return ConfigSource(path, module.get_config, argument)
    raise UserError(f"config file not found: {path}; {_like(path)}")


def _find_get_config(path: str) -> Callable[..., ConfigDict]:
    """The function `get_config` of a file."""
    name = f"iso3d_jax_config_{Path(path).stem}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path} is not a config file: its name must end in .py")
    folder = Path(path).resolve().parent
    for place in (folder, folder.parent):  # so that configs of one folder can share code
        if str(place) not in sys.path:
            sys.path.append(str(place))
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        raise _unreadable(path, error) from error
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} is not a config file: it has no function get_config")
    return module.get_config


def _unreadable(path: str, error: Exception) -> UserError:
    """What to say of an exception in a config: its type, its first line, the line of the file."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    line = f" (line {lines[-1]})" if lines else ""
    message = str(error).splitlines()[0] if str(error) else ""
    return UserError(
        f"{path} could not be read as a config: {type(error).__name__}: {message}{line}"
    )


def _like(path: str) -> str:
    """A hint for a config that is not there: the configs of the folder given, or the presets."""
    folder = os.path.dirname(path)
    if not folder:
        return nearest(path.removesuffix(".py"), presets.NAMES)
    files = sorted(Path(folder).glob("*.py")) if os.path.isdir(folder) else []
    configs = [file.name for file in files if b"get_config" in file.read_bytes()]
    name = Path(path).name
    if configs:
        return nearest(name, configs)
    return nearest(name.removesuffix(".py"), presets.NAMES)
