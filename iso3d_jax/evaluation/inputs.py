"""The pictures and the true meshes of a data set's objects, to score reconstructions with.

    python -m iso3d_jax.evaluation.inputs --data data/furniture64 --assets FOLDER_OR_FILE.sh3f \\
        --out data/truth
    python -m iso3d_jax.reconstruct --image data/truth/pictures/NAME.png --out runs/3d/NAME
    python -m iso3d_jax.evaluate --runs runs/3d --meshes data/truth/meshes --out out/shapes

Writes pictures/NAME.png, the view that `evaluate` gives the model, and meshes/NAME.ply, the true
mesh turned so that this view's azimuth is +X (Z up). `--assets` is what the data set was rendered
from.
"""

from pathlib import Path

from iso3d_jax.commands import command_line, paths
from iso3d_jax.commands.config_checks import SPLITS

flags = command_line.flags_for(__name__)

_DATA = flags.DEFINE_string("data", "samples", "rendered data set; 'samples' is the shipped one")
_SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "the part of the data set")
_ASSETS = flags.DEFINE_list(
    "assets", None, "a .sh3f catalogue, a mesh, or a folder of either; several with commas",
    required=True,
)  # fmt: skip
_OUT = flags.DEFINE_string("out", None, "folder for pictures and meshes", required=True)
_COUNT = flags.DEFINE_integer(
    "objects", 0, "so many objects, evenly spaced; 0: all", 0, command_line.MOST
)


def write_inputs(data: str, split: str, places: list[str], out: str | Path, count: int = 0):
    """Writes pictures and meshes; returns the objects' names.

    Raises:
      UserError: no such data or assets, or an object of the data that the assets lack.
    """
    import numpy as np
    import trimesh
    from PIL import Image
    from trimesh.exchange.ply import export_ply

    from iso3d_jax.core.errors import UserError
    from iso3d_jax.core.files import atomic_path, check_folder
    from iso3d_jax.data import asset_sources
    from iso3d_jax.data.meshes import BadMesh
    from iso3d_jax.data.table import MultiViewTable
    from iso3d_jax.evaluation.views import picture_views, spaced

    table = MultiViewTable.load(data, split)
    assets = {asset.name: asset for asset in asset_sources.find_assets(places)}
    check_folder(out)
    pictures, meshes = (Path(out) / name for name in ("pictures", "meshes"))
    chosen = spaced(len(table), count or len(table))
    picture_of = picture_views(table)
    for i in chosen:
        name = table.names[i]
        if name not in assets:
            raise UserError(f"--assets has no object {name}, which {data} was rendered from")
        view = picture_of[i]
        with atomic_path(pictures / f"{name}.png") as temporary:
            Image.fromarray(table.images[i, view]).save(temporary)
        try:
            parts = asset_sources.load_asset(assets[name])
        except BadMesh as error:
            raise UserError(f"the mesh of {name} cannot be used: {error}") from None
        corners = np.concatenate([part.positions for part in parts]).reshape(-1, 3)
        mesh = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), process=False)
        turn = -float(table.azimuth_deg[i, view])
        mesh.apply_transform(trimesh.transformations.rotation_matrix(np.radians(turn), [0, 0, 1]))
        with atomic_path(meshes / f"{name}.ply") as temporary:
            temporary.write_bytes(export_ply(mesh))
    return [table.names[i] for i in chosen]


def main(_argv):
    from iso3d_jax.data.asset_sources import find_assets

    paths.dataset("--data", _DATA.value)
    find_assets(_ASSETS.value)
    names = write_inputs(_DATA.value, _SPLIT.value, _ASSETS.value, _OUT.value, _COUNT.value)
    print(f"{len(names)} pictures and meshes in {_OUT.value}")


if __name__ == "__main__":
    command_line.run(main)
