"""What all commands share: flags, configs, errors in one sentence, and the compilation cache.

A command is a module with this shape:

    from iso3d_jax.commands import command_line

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

Configs: `--config file.py:preset` or `--config name:preset` (config_files.py);
`--config.model.width=64` overrides one value, checked against the type in the file. A `~` at the
start of a flag's value or of a config's is the user's home folder.

Exit status: 0 all went well, 2 a mistake in what was given, 130 interrupted with Ctrl-C, 143 ended
by SIGTERM (termination.py), 1 a bug.
`ISO3D_DEBUG=1` shows the traceback of a UserError too.
"""

import functools
import gc
import io
import math
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from iso3d_jax.commands import config_checks, config_rules, termination
from iso3d_jax.commands.config_files import load_config
from iso3d_jax.commands.config_presets import nearest
from iso3d_jax.core import extras
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import describe_os_error

# `flags.DEFINE_enum(*DTYPE_FLAG)` in each command that runs networks: absl counts flags by caller.
DTYPE_FLAG = (
    "dtype", None, ["float32", "bfloat16"],
    "of networks' weights and arithmetic; if left out bfloat16 on a GPU or TPU, float32 on a CPU",
)  # fmt: skip
# The same of commands that take people's pictures.
REMOVE_BACKGROUND_FLAG = (
    "remove_background", "auto", ["auto", "never", "always"],
    "auto: transparency is kept, a plain background removed by its colour, any other by matting; "
    "never: the picture as it is; always: by matting",
)  # fmt: skip
MATTING_MODEL_FLAG = (
    "matting_model", None,
    "an ONNX file of rembg's (u2net, silueta, isnet) to cut objects out with; u2netp of the extra "
    "iso3d_jax[matting] if left out",
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
    assert isinstance(config, ConfigDict)  # `_read_flags` defined the flag with one
    _expand_config(config)
    config_checks.check(config)
    return config


def expand_home(value: str) -> str:
    """A flag's text with `~` and `~name` at its start, or after a comma, as the home folders.

    Shells do it for `--out ~/x` and not for `--out=~/x`.
    """
    return ",".join(os.path.expanduser(part) for part in value.split(","))


def _expand_config(config: ConfigDict) -> None:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            _expand_config(value)
        elif isinstance(value, str) and "~" in value:
            config[key] = expand_home(value)


# Tracing a program makes objects by the million that are needed until it is compiled. To look for
# garbage among them after every 700, as Python does, was a quarter of the time that tracing took.
COLLECT_AFTER = (50_000, 20, 20)


def run(main: Callable[[list[str]], None], argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits the process with its status. See the module's docstring.

    Args:
      main: called as `main(argv)` when the flags are read; argv holds the program's name only.
      argv: the command line, program name first; sys.argv where left out.
    """
    argv = list(sys.argv if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no text at all
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if any(re.fullmatch(r"--?(help|helpshort|helpfull|h)", arg) for arg in argv[1:]):
            print(_help_text(main, argv[0]))
            sys.exit(0)
        rest = _read_flags(argv)
        _quiet_logging()
        use_compilation_cache()
        gc.set_threshold(*COLLECT_AFTER)
        with termination.unwinding():
            main(rest)
            sys.stdout.flush()
    except UserError as error:
        _fail(error, str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in extras.EXTRAS:
            raise
        _fail(error, str(extras.missing(package)))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        _fail(error, message)
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail(error, "the device ran out of memory; use a smaller batch or a smaller model")
    sys.exit(0)


def as_typed(name: str = "", **first: str) -> str:
    """This process's command line as `iso3d COMMAND ...`, for a shell.

    Args:
      name: of the command, if it is to be another one that has the same flags.
      first: flags that are put first where they were not typed.
    """
    module, *arguments = sys.argv
    typed = {arg.lstrip("-").partition("=")[0] for arg in arguments if arg.startswith("-")}
    added = [f"--{flag}={value}" for flag, value in first.items() if flag not in typed]
    return shlex.join(["iso3d", name or Path(module).stem, *added, *arguments])


def use_compilation_cache() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, so that a second run starts fast.

    `$XDG_CACHE_HOME/iso3d_jax/xla/N_cores`, or `~/.cache/iso3d_jax/xla/N_cores`, with the cores
    that this process may use: XLA divides programs for the CPU among them and rounds elsewhere
    then, and JAX hands on programs without asking for how many they were made. Those of one core
    would be slow on eight, and a run that goes on with some of either would end with other numbers.
    JAX_COMPILATION_CACHE_DIR sets another place, and JAX_ENABLE_COMPILATION_CACHE=false turns it
    off.
    """
    cache_home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(cache_home, "iso3d_jax", "xla", f"{_cores_of_xla()}_cores")
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.3,
    }
    for name, value in settings.items():
        if name.upper() in os.environ:
            continue
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
        else:
            os.environ[name.upper()] = str(value)


def _cores_of_xla() -> str:
    """How many cores XLA makes programs for: what NPROC says, or those that the process may use."""
    if given := os.environ.get("NPROC"):
        return re.sub(r"\W", "_", given)
    if hasattr(os, "sched_getaffinity"):
        return str(len(os.sched_getaffinity(0)))
    return str(os.cpu_count() or 1)


def _read_flags(argv: list[str]) -> list[str]:
    """Reads the flags of a command line into absl's FLAGS; returns the program's name alone."""
    if _config_defaults:
        spec, argv = _take_config(argv)
        spec = spec if spec is not None else _config_defaults[0]
        argv = _alias(argv)
        if not spec:
            raise UserError("no config was given: add --config FILE.py or --config FILE.py:PRESET")
        config = load_config(spec, _default_presets[0] if _default_presets else None)
        _check_overrides(config, argv)
        try:
            config_flags.DEFINE_config_dict(_CONFIG_FLAG, config, sys_argv=argv)
        except (flags.Error, config_flags.UnsupportedOperationError, ValueError, TypeError) as e:
            raise UserError(_one_line(e)) from e
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"unknown flag --{error.flagname}: {_like(error.flagname)}") from error
    except flags.IllegalFlagValueError as error:
        missing = re.search(rf"Flag --(\S+) {_REQUIRED}", str(error))
        message = f"--{missing.group(1)} is required" if missing else _one_line(error)
        raise UserError(message) from error
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        if isinstance(value, float) and not math.isfinite(value):  # absl's bounds let nan pass
            raise UserError(f"--{name} must be a finite number, not {value}: give one")
        if isinstance(value, str) and "~" in value:
            flags.FLAGS[name].value = expand_home(value)
        elif isinstance(value, list) and any(isinstance(v, str) and "~" in v for v in value):
            flags.FLAGS[name].value = [expand_home(v) for v in value]
    if len(rest) > 1:
        raise UserError(f"unexpected argument '{rest[1]}': everything is given as --flag=value")
    return rest


def _alias(argv: list[str]) -> list[str]:
    """`--seed` is `--config.seed` where a command has no flag of that name of its own."""
    if "seed" in flags.FLAGS:
        return argv
    return [re.sub(r"^--?seed(?==|$)", f"--{_CONFIG_FLAG}.seed", arg) for arg in argv]


def _like(name: str) -> str:
    """A hint for a flag that is not there: the nearest one, or the config's key of that name."""
    hidden = {*_hidden_flags(), "v"}
    known = [name for name in flags.FLAGS if name not in hidden]
    if _config_defaults:
        known += [] if _CONFIG_FLAG in known else [_CONFIG_FLAG]
        config = flags.FLAGS[_CONFIG_FLAG].value if _CONFIG_FLAG in flags.FLAGS else None
        keys = [] if config is None else sorted(_paths_to(name, config), key=len)
        if keys:
            return f"did you mean '{_CONFIG_FLAG}.{keys[0]}'? (see --help)"
    return f"{nearest(name, known)} (see --help)"


def _paths_to(name: str, config: ConfigDict, above: str = "") -> Iterator[str]:
    """Dotted keys of a config whose last part is a name."""
    for key in config:
        value = config.get_oneway_ref(key).get()
        if key == name:
            yield above + key
        if isinstance(value, ConfigDict):
            yield from _paths_to(name, value, f"{above}{key}.")


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
        lines.append("  --seed SEED  the same as --config.seed")
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
