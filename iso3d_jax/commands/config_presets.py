"""Reading the part after the colon of `--config file.py:preset,key=value`.

The idea is big_vision's `configs/common.py: parse_arg`. A config file uses it like this:

    PRESETS = ("full", "tiny")

    def get_config(arg=None):
        preset, options = config_presets.parse(arg, PRESETS, resolution=256)
        config = ConfigDict()
        config.resolution = options.resolution
        ...

`:tiny` chooses a preset, `:tiny,resolution=128` also changes an option, and nothing at all is the
first preset. Whatever is not known is refused with the nearest known name.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from iso3d_jax.core.errors import UserError


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that helps with a wrong name: the nearest known one, or else all of them."""
    known = list(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f"did you mean '{match[0]}'?"
    return f"known are: {', '.join(known)}" if known else "there are none"


def parse(arg: str | None, presets: Sequence[str], **defaults: Any) -> tuple[str, ConfigDict]:
    """Splits a preset string into the preset's name and its options.

    Args:
      arg: what stood after the colon, such as 'tiny', 'tiny,resolution=128', 'resolution=128',
        '' or None.
      presets: the known presets; the first one is meant where none is named.
      **defaults: the options with their default values, whose types the given values must fit.

    Returns:
      The preset's name, and a ConfigDict of the options.

    Raises:
      UserError: an unknown preset or option, or a value of the wrong type.
    """
    preset = presets[0]
    options = ConfigDict(defaults)
    for index, item in enumerate(part.strip() for part in (arg or "").split(",")):
        if not item:
            continue
        key, equals, text = item.partition("=")
        if not equals:
            if index > 0 and key in defaults and isinstance(defaults[key], bool):
                options[key] = True
                continue
            if key not in presets:
                hint = nearest(key, presets)
                more = "" if hint.startswith("known") else f" (known are: {', '.join(presets)})"
                raise UserError(f"unknown preset '{key}': {hint}{more}")
            preset = key
            continue
        if key not in defaults:
            raise UserError(f"unknown preset option '{key}': {nearest(key, defaults)}")
        options[key] = _convert(key, text, defaults[key])
    return preset, options


def _convert(key: str, text: str, default: Any) -> Any:
    """The option's text as a value of its default's type."""
    if isinstance(default, bool):
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise UserError(f"preset option '{key}' is true or false, not '{text}'")
    if default is None:
        return text
    try:
        return type(default)(text)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}.get(type(default), "of another type")
        raise UserError(f"preset option '{key}' is {kind}, not '{text}'") from None
