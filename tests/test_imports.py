"""Dependencies point one way, the maths imports only JAX, and torch stays where it belongs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "iso3d_jax"

# Lowest first. A module imports from lower layers, or from its own folder.
LAYERS = [
    {"errors", "config_rules", "images", "memory"},
    {"files", "progress", "config_presets", "config_checks", "extras", "geometry"},
    {"diffusion", "nerf", "presets"},
    {"models"},
    {"weights"},
    {"guidance", "data", "mesh", "page"},
    {"sampling", "paths", "views", "config_files"},
    {"reconstruction"},
    {"evaluation"},
    {"training"},
    {"planning", "pipeline"},
    {"comparison"},
    {"command_line", "__main__"},
    {"train", "sample", "reconstruct", "export", "convert", "evaluate", "compare"},
    {"demo"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

MATHS = ("geometry", "diffusion", "nerf", "models")
MATHS_MAY_IMPORT = {"jax", "flax", "jaxtyping", "numpy", *sys.stdlib_module_names}

TORCH_ALLOWED = ("tests/parity/", "benchmarks/")


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Dotted names imported by a file, by pytest too; not those under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.importorskip":
            yield ast.literal_eval(node.args[0])


def unit(dotted):
    """The folder or file of the package that a dotted name is in."""
    return dotted.split(".")[1]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_point_one_way(path):
    relative = path.relative_to(PACKAGE)
    own = relative.parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in RANK, f"{own} has no layer: add it to LAYERS"
    for name in imports(path):
        if not name.startswith("iso3d_jax.") or unit(name) in (own, "__version__"):
            continue
        other = unit(name)
        if other not in RANK:  # a name of the package itself
            continue
        if other in ("command_line", "paths") and "command_line.run(" in path.read_text():
            continue  # a command beside the data it makes
        assert RANK[other] < RANK[own], f"{relative} imports {name}, which is not below it"


@pytest.mark.parametrize(
    "path",
    [p for p in modules() if p.relative_to(PACKAGE).parts[0] in MATHS],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_maths_imports_only_jax(path):
    for name in imports(path):
        top = name.split(".")[0]
        assert top in MATHS_MAY_IMPORT or top == "iso3d_jax", f"{path.name} imports {name}"


def test_each_part_of_the_package_has_one_layer_and_is_there():
    named = [name for layer in LAYERS for name in layer]
    assert len(named) == len(set(named)), "a part of the package stands in two layers"
    there = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()}
    # As well as the layers that are there, none is named that is gone.
    assert set(named) == there - {"__init__"}


def test_the_exceptions_are_places_that_need_them():
    for place in TORCH_ALLOWED:
        users = [
            path
            for path in (ROOT / place).rglob("*.py")
            if "torch" in {name.split(".")[0] for name in imports(path)}
        ]
        assert users, f"nothing in {place} imports torch: take it off the list"


def test_torch_is_imported_for_parity_and_benchmarks_alone():
    for folder in ("iso3d_jax", "configs", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            relative = str(path.relative_to(ROOT))
            if relative.startswith(TORCH_ALLOWED):
                continue
            assert "torch" not in {name.split(".")[0] for name in imports(path)}, relative


def test_the_package_and_its_help_do_not_load_jax():
    program = (
        "import sys, iso3d_jax; from iso3d_jax import command_line, sample;"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


WITHOUT_POSIX = """
import builtins, importlib, sys

real = builtins.__import__


def windows(name, globals=None, *args, **keywords):
    asks = (globals or {}).get("__name__", "")
    if name in ("fcntl", "resource") and asks.startswith("iso3d_jax"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, *args, **keywords)


builtins.__import__ = windows
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_module_imports_where_python_has_no_fcntl_and_no_resource():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in modules()
    ]
    subprocess.run([sys.executable, "-c", WITHOUT_POSIX, *names], check=True, cwd=ROOT)


def test_public_names_exist():
    import iso3d_jax

    for name in iso3d_jax.__all__:
        assert getattr(iso3d_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = iso3d_jax.nothing
