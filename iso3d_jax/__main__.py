"""`iso3d COMMAND` and `python -m iso3d_jax COMMAND`: the list of commands, and the way to each.

`iso3d sample --image chair.png` is `python -m iso3d_jax.sample --image chair.png`.
"""

from __future__ import annotations

import ast
import importlib.util
import runpy
import sys
from pathlib import Path

from iso3d_jax import __version__
from iso3d_jax.commands.config_presets import nearest

# By what a newcomer does first.
COMMANDS = {
    "demo": "iso3d_jax.demo",
    "ui": "iso3d_jax.ui.__main__",
    "sample": "iso3d_jax.sample",
    "reconstruct": "iso3d_jax.reconstruct",
    "export": "iso3d_jax.export",
    "convert": "iso3d_jax.convert",
    "render": "iso3d_jax.data.render",
    "join": "iso3d_jax.data.join",
    "encode": "iso3d_jax.data.encode",
    "train": "iso3d_jax.train",
    "evaluate": "iso3d_jax.evaluate",
    "compare": "iso3d_jax.compare",
    "lowering": "iso3d_jax.planning.lowering",
}


def summary(module: str) -> str:
    """The first line of a command's docstring, read without importing what it needs."""
    package, _, name = module.rpartition(".")
    parent = importlib.util.find_spec(package)
    folder = Path(next(iter(parent.submodule_search_locations or ()))) if parent else Path()
    doc = ast.get_docstring(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")))
    return (doc or "").partition("\n")[0]


def listing() -> str:
    """Every command with its line."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary(module)}" for name, module in COMMANDS.items()]
    return "\n".join(
        ["iso3d COMMAND --flag=value ...   (iso3d COMMAND --help for its flags)", "", *lines]
    )


def main() -> None:
    """Runs the command that the first argument names, as its module would be run by hand."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "-help", "help"):
        print(listing())
        sys.exit(0)
    if name == "--version":
        print(__version__)
        sys.exit(0)
    short = name.removeprefix("iso3d_jax.").removeprefix("data.").removeprefix("planning.")
    if short not in COMMANDS:
        hint = nearest(short, COMMANDS)
        print(f"error: unknown command '{name}': {hint}; iso3d --help lists them", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(COMMANDS[short], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
