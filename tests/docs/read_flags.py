"""Reads the flags of commands as the commands do, their configs too, and runs nothing.

    python tests/docs/read_flags.py     takes [[module, flag, ...], ...] as JSON from its input

and prints the same number of texts: what the command says of its flags, empty where it takes them.
Each is read in a process of its own, forked from this one, which has imported what they need.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import sys

from iso3d_jax.commands import command_line
from tests.fork_server import LIBRARIES


def read_flags(main, argv=None):
    """In the place of `command_line.run`."""
    command_line._read_flags(list(sys.argv if argv is None else argv))
    if command_line._config_defaults:
        command_line.get_config()


def complaint(module: str, *arguments: str) -> str:
    """What a command says of its flags."""
    command_line.run = read_flags
    sys.argv = [module, *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main() -> None:
    commands = json.load(sys.stdin)
    for name in (*LIBRARIES, *sorted({module for module, *_ in commands})):
        importlib.import_module(name)
    command_line._config_defaults.clear()  # each says its own again, or has none
    command_line._default_presets.clear()
    gc.freeze()
    said = []
    for arguments in commands:
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, complaint(*arguments).encode()[:4000])
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            said.append(answer.read())
        os.wait()
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
