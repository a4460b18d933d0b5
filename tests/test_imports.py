"""Dependencies point one way, the maths imports only JAX, and torch stays where it belongs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from iso3d_jax.core.extras import is_installed

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "iso3d_jax"

# Lowest first. A module imports from lower layers, or from its own folder. A name with a dot is a
# module that stands lower or higher than the rest of its folder.
LAYERS = [
    {"core", "commands.config_rules"},
    {"commands.config_presets", "commands.config_checks", "geometry"},
    {"metrics"},
    {"diffusion", "nerf", "presets"},
    {"models"},
    {"weights"},
    {"guidance", "data", "mesh"},
    {"sampling", "views", "commands.paths", "commands.config_files"},
    {"reconstruction", "training"},
    {"evaluation"},
    {"pages", "planning", "tiny"},
    {"pipeline", "evaluation.run", "evaluation.ablations"},
    {"commands", "__main__"},
    {"train", "sample", "reconstruct", "export", "convert", "evaluate", "compare"},
    {"demo", "ui", "tiny.quarter_hour"},
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
    """The part of the package that a dotted name is in: the longest that LAYERS names."""
    parts = dotted.split(".")[1:]
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in RANK), parts[0])


def dotted_name(path):
    """`iso3d_jax.core.files` of a file of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_module(dotted):
    path = ROOT / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def wrong_imports(path):
    """(module, what it imports) of everything in a file that does not lie below it."""
    own = dotted_name(path)
    for name in imports(path):
        module = name if is_module(name) else name.rpartition(".")[0]
        if not module.startswith("iso3d_jax.") or module.split(".")[1] == own.split(".")[1]:
            continue
        assert unit(module) in RANK, f"{module} has no layer: add it to LAYERS"
        if unit(module) in ("commands", "commands.paths") and "run(main)" in path.read_text():
            continue  # a command beside the data it makes
        if RANK[unit(module)] >= RANK[unit(own)] and is_file(module):
            yield own.removeprefix("iso3d_jax."), module.removeprefix("iso3d_jax.")


def importable():
    """Dotted names of all modules, but for those whose one purpose is a package of an extra."""
    names = [dotted_name(path) for path in modules()]
    of_gradio = ("iso3d_jax.ui.page", "iso3d_jax.ui.server")
    return [name for name in names if is_installed("gradio") or name not in of_gradio]


def is_file(dotted):
    """Whether it is more than the folder that a module is imported from."""
    path = ROOT / dotted.replace(".", "/")
    init = path / "__init__.py"
    return path.with_suffix(".py").is_file() or (
        init.is_file() and len(ast.parse(init.read_text()).body) > 1
    )


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_point_one_way(path):
    if path == PACKAGE / "__init__.py":
        return
    assert unit(dotted_name(path)) in RANK, f"{path} has no layer: add it to LAYERS"
    for own, module in wrong_imports(path):
        raise AssertionError(f"{own} imports {module}, which is not below it")


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
    assert {name for name in named if "." not in name} == there - {"__init__"}
    for name in named:
        assert is_module(f"iso3d_jax.{name}"), f"{name} is gone"


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
        "import sys, iso3d_jax; from iso3d_jax.commands import command_line;"
        "from iso3d_jax import sample;"
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
    subprocess.run([sys.executable, "-c", WITHOUT_POSIX, *importable()], check=True, cwd=ROOT)


WITHOUT_TINY = """
import importlib, sys


class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name == "iso3d_jax.tiny" or name.startswith("iso3d_jax.tiny."):
            raise ImportError(f"the core imports {name}")


sys.meta_path.insert(0, Refusal())
for name in sys.argv[1:]:
    importlib.import_module(name)

from iso3d_jax.commands.config_files import load_config
from iso3d_jax.models import registry
from iso3d_jax.training.tasks.registry import TASKS
from iso3d_jax.weights import bundle
from iso3d_jax.weights.model_spec import ModelSpec

sizes = {
    "unet": {"model_channels": 8, "num_groups": 4, "channel_mult": (1, 2), "num_head_channels": 4},
    "vae": {"ch": 4, "ch_mult": (1, 2), "num_groups": 2},
    "clip": {"image_size": 28, "patch_size": 14, "width": 16, "layers": 1, "heads": 2},
}
for section, numbers in sizes.items():
    made = bundle.abstract_network(section, ModelSpec.read({section: numbers}))[1]
    assert made, section
module, _, task = TASKS[load_config("configs/stage2.py:full").task].partition(":")
step = getattr(importlib.import_module(module), task).train_step
assert step.__module__ == "iso3d_jax.training.tasks.denoiser"
"""


def test_the_method_works_without_the_small_model():
    core = [name for name in importable() if name.split(".")[1:2] != ["tiny"]]
    subprocess.run([sys.executable, "-c", WITHOUT_TINY, *core], check=True, cwd=ROOT)


# The functions that turn a config into what the code below them takes.
DOORS = {"make_spec", "check", "settle", "from_config", "make_task", "train", "with_dtype"}


def takes_a_config(path):
    """Names of a file's functions with a parameter that may be a ConfigDict."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            a = node.args
            given = [*a.posonlyargs, *a.args, *a.kwonlyargs]
            if any("ConfigDict" in ast.unparse(x.annotation) for x in given if x.annotation):
                yield node.name


def test_configs_stay_at_the_doors():
    """Below them functions take frozen dataclasses."""
    found = {}
    for path in modules():
        name = dotted_name(path).removeprefix("iso3d_jax.")
        if name.split(".")[0] in ("commands", "presets", "pipeline"):
            continue
        if name in ("core.specs", "ui.makers"):
            continue
        found[name] = set(takes_a_config(path)) - DOORS
    assert {name: functions for name, functions in found.items() if functions} == {}
    assert set(takes_a_config(ROOT / "iso3d_jax/training/spec.py")) == {"make_spec"}


def test_public_names_exist():
    import iso3d_jax

    for name in iso3d_jax.__all__:
        assert getattr(iso3d_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = iso3d_jax.nothing
