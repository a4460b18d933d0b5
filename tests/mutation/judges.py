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
    "models": [
        "models", "tiny/dense_tower.py", "tiny/frequencies.py", "tiny/patch_autoencoder.py",
        "tiny/spatial_prior.py",
    ],
    "reconstruction": ["reconstruction"],
    "training": [
        "training", "tiny/tasks", "core/stopping.py", "core/chips.py",
        "planning/collectives.py", "planning/compile_for.py", "core/flops.py",
    ],
    "sampling": ["sampling.py"],
    "data/pictures": [
        "data/pictures.py", "data/picture_files.py", "data/picture_folders.py",
        "data/background.py", "data/matting.py", "data/colour.py",
        "data/multiview", "data/picture_table.py", "data/prepared_views.py", "data/encoded.py",
        "data/encoded_shards.py", "data/camera_ranges.py",
    ],
    "data/render": [
        "data/render.py", "data/join.py", "data/places.py", "data/quality.py",
        "data/object_lists.py", "data/importers.py", "data/pipelines.py",
        "data/rasterizer.py", "data/layers.py", "data/lights.py", "data/blender.py",
        "data/grids.py",
        "data/meshes.py", "data/gltf.py", "data/gltf_document.py", "data/obj.py",
        "data/obj_lines.py", "data/ply.py",
        "data/plain_meshes.py", "data/beside.py", "data/textures.py",
    ],
    "mesh": ["mesh"],
    "metrics": [
        "metrics/pixels.py", "metrics/shapes.py", "metrics/isotropy.py",
        "evaluation/consistency.py", "evaluation/perceptual.py", "metrics/lpips.py",
        "metrics/surface_points.py",
        "evaluation/scores.py", "evaluation/component_scores.py", "evaluation/views.py",
    ],
}  # fmt: skip

# Folders of tests that run whole commands or somebody else's networks: too slow to judge each
# fault, but where ALSO says so.
TOO_SLOW = {
    "end_to_end", "commands", "benchmarks", "launch", "ablations", "multidevice", "mutation",
    "pages", "parity",
}  # fmt: skip
# Files whose tests are whole runs: they judge what nothing else judges.
LAST_RESORT = {
    "tests/planning/test_lowering.py",
    "tests/reconstruction/test_commands.py", "tests/reconstruction/test_loop.py",
    "tests/training/tasks/test_base.py", "tests/training/test_never_loses_work.py",
    "tests/training/test_options.py", "tests/weights/test_conversion.py",
    "tests/weights/test_dtype.py",
}  # fmt: skip
BY_HAND = "tests/models/test_small_towers_by_hand.py"
RELEASED = "tests/parity/test_released_code.py"
# What a module's faults are judged by though it does not import the module.
ALSO = {
    "models/params.py": [
        "tests/reconstruction/test_presets.py",
        "tests/tiny/test_dense_tower.py",
        "tests/tiny/test_spatial_prior.py",
    ],
    "data/background.py": ["tests/data/test_pictures.py"],
    "data/colour.py": ["tests/evaluation/test_task.py"],
    "data/multiview/records.py": ["tests/data/test_multiview_records.py"],
    "mesh/usd_file.py": ["tests/mesh/test_files.py"],
    "mesh/welding.py": ["tests/mesh/test_files.py"],
    "sampling.py": ["tests/sampling/test_prepare.py", "tests/sampling/test_reference.py"],
    "training/tasks/damage.py": ["tests/training/tasks/test_mixtures.py"],
    "training/tasks/base.py": ["tests/training/tasks/test_stages_base.py"],
    "evaluation/views.py": ["tests/evaluation/test_task.py"],
    "metrics/lpips.py": ["tests/parity/test_lpips.py"],
    "evaluation/perceptual.py": ["tests/parity/test_lpips.py"],
    "reconstruction/report_file.py": ["tests/reconstruction/test_result_files.py"],
    "guidance/sds.py": [RELEASED],
    "models/attention.py": [RELEASED],
    "models/clip.py": [BY_HAND, RELEASED],
    "tiny/dense_tower.py": [BY_HAND],
    "tiny/frequencies.py": [BY_HAND],
    "tiny/spatial_prior.py": [BY_HAND],
    "tiny/patch_autoencoder.py": [BY_HAND],
    "models/splash.py": [BY_HAND],
    "models/embeddings.py": ["tests/models/test_unet.py", RELEASED],
    "models/layers.py": [RELEASED],
    "models/unet.py": [RELEASED],
    "models/vae.py": ["tests/models/test_layers.py", RELEASED],
    "training/checksums.py": ["tests/training/test_never_loses_work.py"],
    "nerf/render.py": ["tests/nerf/test_released_sampling.py"],
    "reconstruction/result.py": ["tests/end_to_end/test_api.py"],
    "reconstruction/pictures.py": ["tests/reconstruction/test_sheets.py"],
    "training/watch.py": ["tests/training/test_loop.py"],
}
FEW = 3


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
        if TOO_SLOW.isdisjoint(place.parts[1:-1]):
            for name in imported(path):
                found.setdefault(name, []).append(place.as_posix())
    return found


def judges(module: Path) -> list[str]:
    """The few test files that judge a module.

    Those that bear its name in the folder of tests that mirrors its own (`test_losses_parts.py`
    judges `losses.py`) and those in `ALSO`; where none bears it, the first `FEW` that import it.
    """
    place = module.relative_to(PACKAGE).with_suffix("")
    name = place.as_posix() + ".py"
    mirror = place.parent if module.parent != PACKAGE else place
    named = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests" / mirror).glob(f"test_{module.stem}*.py"))
    ]
    importing = importers().get(".".join(("iso3d_jax", *place.parts)), [])
    fast = [path for path in importing if path not in LAST_RESORT]
    also = ALSO.get(name, [])
    chosen = [path for path in named if path not in LAST_RESORT] + also
    return list(dict.fromkeys(chosen or fast[:FEW] or importing[:1]))
