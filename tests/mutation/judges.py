"""Which modules faults are put into, and the few fast tests that judge each of them."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "iso3d_jax"

# Areas, and what they hold: folders or files of the package.
AREAS = {
    "diffusion": ["diffusion"],
    "guidance": ["guidance"],
    "nerf": ["nerf"],
    "geometry": ["geometry"],
    "models": ["models"],
    "reconstruction": ["reconstruction"],
    "training": ["training"],
    "sampling": ["sampling.py"],
    "data/pictures": [
        "data/pictures.py", "data/background.py", "data/colour.py", "data/stretch.py",
        "data/multiview", "data/picture_table.py",
    ],
    "data/render": ["data/render.py", "data/rasteriser.py", "data/grids.py", "data/meshes.py"],
    "mesh": ["mesh"],
    "metrics": [
        "evaluation/pixels.py", "evaluation/shapes.py", "evaluation/isotropy.py",
        "evaluation/consistency.py", "evaluation/lpips.py", "evaluation/visible.py",
        "evaluation/scores.py", "evaluation/parts.py", "evaluation/views.py",
    ],
}  # fmt: skip

# Folders of tests that run whole commands or somebody else's networks: too slow to judge each
# fault, but where ALSO says so.
TOO_SLOW = {
    "end_to_end", "command_line", "benchmarks", "launch", "planning", "comparison", "multidevice",
    "mutation", "page", "parity",
}  # fmt: skip
RELEASED = "tests/parity/test_released_code.py"
# What a module's faults are judged by though it does not import the module.
ALSO = {
    "data/background.py": ["tests/data/test_pictures.py"],
    "data/multiview/multiview_dataset_builder.py": ["tests/data/test_multiview.py"],
    "evaluation/lpips.py": ["tests/parity/test_lpips.py"],
    "guidance/sds.py": [RELEASED],
    "models/attention.py": [RELEASED],
    "models/clip.py": [RELEASED],
    "models/embeddings.py": ["tests/models/test_unet.py", RELEASED],
    "models/layers.py": [RELEASED],
    "models/unet.py": [RELEASED],
    "models/vae.py": [RELEASED],
    "training/checksums.py": ["tests/training/test_never_loses_work.py"],
    "training/distributed.py": ["tests/training/test_batches.py"],
    "training/frozen_tasks.py": ["tests/training/test_image_tower.py"],
    "training/gradients.py": ["tests/training/test_denoiser.py", "tests/training/test_options.py"],
    "training/watch.py": ["tests/training/test_loop.py"],
}
# What does not judge a module though it imports it: slow there, and about something else.
NOT = {}


def modules() -> dict[str, list[Path]]:
    """The modules of every area."""
    found = {}
    for area, places in AREAS.items():
        files = []
        for place in places:
            path = PACKAGE / place
            files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
        found[area] = [path for path in files if path.name != "__init__.py"]
    return found


def imported(path: Path) -> set[str]:
    """Dotted names of the package's modules that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("iso3d_jax.")}


@functools.cache
def importers() -> dict[str, list[str]]:
    """Test files by the module of the package that they import."""
    found = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        place = path.relative_to(ROOT)
        if place.parts[1] not in TOO_SLOW:
            for name in imported(path):
                found.setdefault(name, []).append(place.as_posix())
    return found


def judges(module: Path) -> list[str]:
    """The test files that judge a module: those named after it, those that import it, `ALSO`."""
    place = module.relative_to(PACKAGE).with_suffix("")
    name = place.as_posix() + ".py"
    named = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").rglob(f"test_{module.stem}.py"))
        if path.parent.name in (module.parent.name, module.parent.name[: -len("ion")])
    ]
    dotted = ".".join(("iso3d_jax", *place.parts))
    every = named + importers().get(dotted, []) + ALSO.get(name, [])
    return [path for path in dict.fromkeys(every) if path not in NOT.get(name, [])]
