"""What all commands share: flags, configs, errors in one sentence, and the compilation cache.

A command is a module with this shape:

    from iso3d_jax import command_line

    flags = command_line.flags_for(__name__)
    _WORKDIR = flags.DEFINE_string("workdir", None, "folder for checkpoints", required=True)
    command_line.define_config_flag("configs/stage1.py:tiny")

    def main(argv):
        config = command_line.get_config()     # an ml_collections.ConfigDict, locked
        ...

    if __name__ == "__main__":
        command_line.run(main)

`run` reads the flags, turns every mistake of the user's into `error: ...` on stderr with exit
status 2, and shows the module's docstring and its own flags for `--help`. Import JAX and what
needs it inside `main`, so that `--help` and wrong flags answer at once.

Configs: `--config file.py:preset` calls that file's `get_config("preset")`;
`--config.model.width=64` overrides one value, checked against the type in the file.

Exit status: 0 all went well, 2 a mistake in what was given, 130 interrupted with Ctrl-C, 1 a bug.
`ISO3D_DEBUG=1` shows the traceback of a UserError too.
"""

import errno
import functools
import importlib.util
import math
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from iso3d_jax import config_checks, config_rules
from iso3d_jax.config_presets import nearest
from iso3d_jax.errors import UserError

# `flags.DEFINE_enum(*DTYPE_FLAG)` in each command that runs networks: absl counts flags by caller.
DTYPE_FLAG = (
    "dtype", None, ["float32", "bfloat16"],
    "of networks' weights and arithmetic; if left out bfloat16 on a GPU or TPU, float32 on a CPU",
)  # fmt: skip
MOST = config_rules.MOST  # the upper bound of whole numbers
_CONFIG_FLAG = "config"
_REQUIRED = "must have a value other than None"  # absl's words for a required flag
_config_defaults: list[str | None] = []
_default_presets: list[str] = []  # with `own_preset`


class _OwnFlags:
    """absl's `flags`, with definitions that go into a FlagValues of their own."""

    def __init__(self):
        self.FLAGS = flags.FlagValues()

    def __getattr__(self, name):
        attribute = getattr(flags, name)
        if name.startswith("DEFINE_"):
            return functools.partial(attribute, flag_values=self.FLAGS)
        return attribute


def flags_for(module: str):
    """absl's `flags` for the module that runs as the program; flags of its own for an imported one.

    Many commands have an `--out`; absl would refuse the second one that is imported.

    Args:
      module: the command's `__name__`.
    """
    return flags if module == "__main__" else _OwnFlags()


def define_config_flag(default: str | None = None, *, own_preset: bool = False) -> None:
    """Gives the command a `--config file.py:preset` flag with `--config.key=value` overrides.

    Args:
      default: the config used where none is given, or None if one must be given.
      own_preset: the default's preset is also meant where its file is given without one, which
        otherwise has its first.
    """
    _config_defaults[:] = [default]
    _default_presets[:] = [default] if own_preset and default else []


def get_config() -> ConfigDict:
    """The config of this command with its overrides, each value checked; locked to its keys."""
    config = flags.FLAGS[_CONFIG_FLAG].value
    config_checks.check(config)
    return config


def load_config(spec: str) -> ConfigDict:
    """Loads 'file.py' or 'file.py:preset' and returns what its `get_config` returns.

    A relative path that is not in the working folder is looked for beside the package, where
    `configs/` is in a checkout.

    Raises:
      UserError: the file is missing, is not a config file, or does not know the preset.
    """
    path, colon, preset = spec.partition(":")
    path = _config_path(path)
    if not os.path.isfile(path):
        raise UserError(f"config file not found: {path}{_nearby_config(path)}")
    module_spec = importlib.util.spec_from_file_location(
        f"iso3d_jax_config_{Path(path).stem}", path
    )
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"{path} is not a config file: its name must end in .py")
    above = str(Path(path).resolve().parents[1])
    if above not in sys.path:
        sys.path.append(above)  # so that configs can share code: `from configs import common`
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path} is not a config file: it has no function get_config")
        config = module.get_config(preset) if colon else module.get_config()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        line = f" (line {lines[-1]})" if lines else ""
        message = str(error).splitlines()[0] if str(error) else ""
        raise UserError(
            f"{path} could not be read as a config: {type(error).__name__}: {message}{line}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config must return a ConfigDict")
    return config


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits the process with its status. See the module's docstring.

    Args:
      main: called as `main(argv)` when the flags are read; argv holds the program's name only.
      argv: the command line, program name first; sys.argv where left out.
    """
    argv = list(sys.argv if argv is None else argv)
    try:
        if any(re.fullmatch(r"--?(help|helpshort|helpfull|h)", arg) for arg in argv[1:]):
            print(_help_text(main, argv[0]))
            sys.exit(0)
        rest = _read_flags(argv)
        _quiet_logging()
        use_compilation_cache()
        main(rest)
        sys.stdout.flush()
    except UserError as error:
        _fail(error, str(error))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(error, f"no space left on the disk while writing {error.filename or 'the results'}")
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail(error, "the device ran out of memory; use a smaller batch or a smaller model")
    sys.exit(0)


def use_compilation_cache() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, so that a second run starts fast.

    `$XDG_CACHE_HOME/iso3d_jax/xla`, or `~/.cache/iso3d_jax/xla`. JAX_COMPILATION_CACHE_DIR sets
    another place, and JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    settings = {
        "jax_compilation_cache_dir": os.path.join(cache_home, "iso3d_jax", "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.3,
    }
    for name, value in settings.items():
        if name.upper() in os.environ:
            continue
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
        else:
            os.environ[name.upper()] = str(value)


def _read_flags(argv: list[str]) -> list[str]:
    """Reads the flags of a command line into absl's FLAGS; returns the program's name alone."""
    if _config_defaults:
        spec, argv = _take_config(argv)
        spec = spec if spec is not None else _config_defaults[0]
        if not spec:
            raise UserError("no config was given: add --config FILE.py or --config FILE.py:PRESET")
        for default in _default_presets:
            spec = with_preset(spec, default)
        config = load_config(spec)
        _check_overrides(config, argv)
        try:
            config_flags.DEFINE_config_dict(_CONFIG_FLAG, config, sys_argv=argv)
        except (flags.Error, config_flags.UnsupportedOperationError, ValueError, TypeError) as e:
            raise UserError(_one_line(e)) from e
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        known = [name for name in flags.FLAGS if name not in _hidden_flags()]
        if _config_defaults:
            known.append(_CONFIG_FLAG)
        raise UserError(
            f"unknown flag --{error.flagname}: {nearest(error.flagname, known)} (see --help)"
        ) from error
    except flags.IllegalFlagValueError as error:
        missing = re.search(rf"Flag --(\S+) {_REQUIRED}", str(error))
        message = f"--{missing.group(1)} is required" if missing else _one_line(error)
        raise UserError(message) from error
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    for name in flags.FLAGS:  # absl's bounds let nan pass
        value = flags.FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name} must be a finite number, not {value}: give one")
    if len(rest) > 1:
        raise UserError(f"unexpected argument '{rest[1]}': everything is given as --flag=value")
    return rest


def _take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Takes `--config SPEC` or `--config=SPEC` out of a command line."""
    spec, rest, index = None, [], 0
    while index < len(argv):
        match = re.fullmatch(r"--?config(?:=(.*))?", argv[index], re.DOTALL)
        if match and match.group(1) is not None:
            spec = match.group(1)
        elif match:
            index += 1
            if index == len(argv):
                raise UserError("--config needs a value: --config FILE.py or FILE.py:PRESET")
            spec = argv[index]
        else:
            rest.append(argv[index])
        index += 1
    return spec, rest


def with_preset(spec: str, default: str) -> str:
    """A config with the preset of `default` where it is the same file and names none.

    `file.py` and `file.py:key=value` name none.
    """
    path, _, given = spec.partition(":")
    own, _, preset = default.partition(":")
    if given and "=" not in given.split(",")[0]:
        return spec
    if Path(own).resolve() != Path(_config_path(path)).resolve():
        return spec
    return f"{path}:{preset},{given}".rstrip(",")


def _check_overrides(config: ConfigDict, argv: Sequence[str]) -> None:
    """Refuses `--config.a.b=c` whose key is not in the config, naming the nearest one."""
    for arg in argv[1:]:
        match = re.match(r"--?(no)?config\.([^=]+)", arg)
        if not match:
            continue
        value, seen = config, "config"
        for key in match.group(2).split("."):
            key = re.sub(r"\[.*\]$", "", key)
            if not isinstance(value, ConfigDict):
                raise UserError(f"{seen} is a single value, so there is no {seen}.{key}")
            if key not in value:
                flag = f"--config.{match.group(2)}"
                hint = nearest(key, sorted(value.keys()))
                raise UserError(f"unknown config key '{key}' in {flag}: {hint}")
            value, seen = value.get_oneway_ref(key).get(), f"{seen}.{key}"


def _config_path(path: str) -> str:
    """The file of that name in the working folder, or beside the package where there is none."""
    beside_package = Path(__file__).resolve().parents[1] / path
    return str(beside_package) if not os.path.isfile(path) and beside_package.is_file() else path


def _nearby_config(path: str) -> str:
    """A hint for a config file that is not there: the files like it in the same folder."""
    folder = Path(path).parent
    names = sorted(p.name for p in folder.glob("*.py")) if folder.is_dir() else []
    return f"; {nearest(Path(path).name, names)}" if names else ""


def _hidden_flags() -> set[str]:
    """Flags that absl defines for itself."""
    hidden = {"flagfile", "undefok"}
    for module, module_flags in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("absl"):
            hidden.update(flag.name for flag in module_flags)
    return hidden


def _help_text(main: Callable, program: str) -> str:
    """The command's docstring and its own flags."""
    doc = (sys.modules[main.__module__].__doc__ or "").strip()
    lines = [doc, "", "Flags:"]
    if _config_defaults:
        default = f" (default: {_config_defaults[0]})" if _config_defaults[0] else " (required)"
        lines.append(f"  --config FILE.py:PRESET{default}")
        lines.append("  --config.KEY=VALUE  overrides one value of the config")
    own = flags.FLAGS.flags_by_module_dict()
    for flag in own.get(main.__module__, own.get(program, [])):
        value = "" if flag.boolean else f" {flag.name.upper()}"
        default = "" if flag.value in (None, [], "") else f" (default: {flag.value})"
        if _REQUIRED in " ".join(str(v.message) for v in flag.validators):
            default = " (required)"
        lines.append(f"  --{flag.name}{value}  {flag.help}{default}")
    return "\n".join(lines)


def _one_line(error: Exception) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split())


def _quiet_logging() -> None:
    """Keeps libraries' INFO lines, and warnings that do not concern the user, off the terminal."""
    # ffmpeg is started by fork and exec at once, which is safe beside JAX's threads.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called", category=RuntimeWarning)
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)


def _fail(error: BaseException, message: str) -> None:
    """Prints an error in one line, with its traceback where ISO3D_DEBUG asks, and exits with 2."""
    if os.environ.get("ISO3D_DEBUG"):
        traceback.print_exception(error)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
