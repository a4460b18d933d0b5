"""A finished reconstruction: its mesh, its turntable, and further files of it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import atomic_path, explain_os_errors, make_folder
from iso3d_jax.core.json_files import read_object
from iso3d_jax.core.progress import Steps
from iso3d_jax.data.posed_pictures import PosedPictures
from iso3d_jax.mesh import remeshing
from iso3d_jax.mesh.files import FileOptions
from iso3d_jax.reconstruction import pictures, state, surface, turntable_file
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.report_file import provenance, read_report
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.reconstruction.state import State
from iso3d_jax.views import Views

if TYPE_CHECKING:
    import trimesh


@dataclasses.dataclass
class Reconstruction:
    """What `Pipeline.reconstruct` returns, and what a run's folder holds.

    Attributes:
      folder: with mesh.glb, turntable.mp4, views.png, report.json, state.npz.
      views: the first set of views that the object was made from, or the pictures that were given.
      sampled: all sets of them, [S, V, H, W, 3]; given pictures are one set.
      state: the optimised scene; `spec` what it was made with.
      report: seed, versions, times, memory, losses, facts of the mesh; as report.json.
      page: index.html, which shows all of it, where it was written.
    """

    folder: Path
    views: Views | PosedPictures
    sampled: np.ndarray
    state: State
    spec: ReconstructionSpec
    report: dict[str, Any]
    page: Path | None = None
    keep: Any = dataclasses.field(default=None, repr=False)  # a temporary folder's life

    @classmethod
    @explain_os_errors()
    def load(cls, folder: str | Path) -> Reconstruction:
        """A finished run from its folder.

        Raises:
          UserError: the folder holds no finished reconstruction, or a damaged one.
        """
        folder = Path(folder).expanduser()
        spec = state.load_spec(folder)
        report = read_report(folder)
        if (posed := draft.load_given(folder)) is not None:
            scene = state.load(folder, spec)
            return cls(folder, posed, posed.on_white()[None], scene, spec, report)
        picture = pictures.load_input(folder)
        sampled = draft.load_views(folder / draft.VIEWS)
        views = first_views(sampled, spec, picture, draft.load_prepared(folder / draft.VIEWS))
        return cls(folder, views, sampled, state.load(folder, spec), spec, report)

    @functools.cached_property
    @explain_os_errors()
    def mesh(self) -> trimesh.Trimesh:
        """The textured mesh, as mesh.glb holds it: Y up, facing +Z."""
        import trimesh

        mesh = trimesh.load(self.folder / "mesh.glb", force="mesh", process=False)
        assert isinstance(mesh, trimesh.Trimesh)
        return mesh

    def turntable(
        self, frames: int | None = None, size: int | None = None
    ) -> UInt8[np.ndarray, "F H W 3"]:
        """Colour pictures all round, from azimuth 0.

        Args:
          frames, size: how many, and their side in pixels; the run's own where None. Memory is 11
            bytes a pixel of all frames; time grows with the pixels that show the object.
        """
        return self._turn(frames, size).rgb

    @explain_os_errors()
    def save_turntable(
        self, path: str | Path, *, frames: int | None = None, size: int | None = None
    ) -> Path:
        """Writes colour, normals and opacity all round, side by side, as .mp4, .webp or .gif.

        Args:
          frames, size: as of `turntable`.

        Raises:
          UserError: another suffix, or .mp4 where there is no ffmpeg.
        """
        path = Path(path).expanduser()
        turntable_file.check(path)
        make_folder(path.parent)
        turntable_file.write(path, self._turn(frames, size, path.name), self.spec.video.seconds)
        return path

    def _turn(self, frames: int | None, size: int | None, label: str = "") -> pictures.Turntable:
        video = self.spec.video
        for name, value in (("frames", frames), ("size", size)):
            if value is not None and value < 1:
                raise UserError(f"{name} is at least 1, not {value}")
        spec = dataclasses.replace(
            self.spec, video=dataclasses.replace(video, resolution=size or video.resolution)
        )
        shown = surface.sharpen(self.state, self.spec, self.report["mesh"]["threshold"])
        return pictures.all_round(shown, spec, frames or video.frames, label)

    @explain_os_errors()
    def export(
        self,
        path: str | Path,
        *,
        texture: int | None = None,
        faces: int | None = None,
        resolution: int | None = None,
        threshold: float | str | None = None,
        overwrite: bool = False,
        size_mm: float | None = None,
        unlit: bool = False,
        points: int | None = None,
        remesh: str | None = None,
    ) -> dict[str, Any]:
        """Extracts the mesh again and writes it; what is None is as it was in the run.

        Args:
          path: .glb (one file, Y up), .obj (with .mtl and .png beside it), .usdz (Apple's; extra
            `usd`), .ply (vertex colours, Z up), .stl or .3mf (for printers, Z up).
          texture: side of the texture in pixels.
          faces: at most so many triangles; with `remesh` about so many quads or triangles.
          resolution: of the marching cubes along the longest side.
          threshold: the density on the surface; "auto" chooses it whatever the run's config says.
          overwrite: replace files that are there and were not written by an export of this run.
          size_mm: longest side of .stl and .3mf files in millimetres, 100 if None.
          unlit: the .glb shows its colours without light.
          points: the .ply holds so many points of the surface, and no faces.
          remesh: "quads" or "triangles", even in size, in the place of simplified ones (extra
            `remesh`); .obj files hold quads, all others their halves.

        Returns:
          Facts: files, bytes, vertices, faces, threshold, watertight, and silhouette_iou where it
          was chosen.

        Raises:
          UserError: another suffix, a file that is not the run's own, or an empty surface.
        """
        return export_mesh(
            self.folder, self.state, self.spec, path, texture=texture, faces=faces,
            resolution=resolution, threshold=threshold, overwrite=overwrite, size_mm=size_mm,
            unlit=unlit, points=points, remesh=remesh,
        )  # fmt: skip


def first_views(
    sampled: np.ndarray, spec: ReconstructionSpec, picture: np.ndarray, prepared: np.ndarray
) -> Views:
    """The first set of a run's sampled views [S, V, H, W, 3], with their cameras."""
    azimuth, elevation = spec.draft.sets[0]
    count = sampled.shape[1]
    return Views(
        sampled[0], (azimuth + np.arange(count) * 360.0 / count) % 360.0,
        np.full(count, float(elevation)), picture, prepared, spec.seed,
        spec.picture,
    )  # fmt: skip


def export_run(folder: str | Path, path: str | Path, **options) -> dict[str, Any]:
    """Writes the mesh of a run that may not be finished; see `Reconstruction.export`."""
    spec = state.load_spec(folder)
    return export_mesh(Path(folder), state.load(folder, spec), spec, path, **options)


def export_mesh(
    run: Path, scene: State, spec: ReconstructionSpec, path: str | Path, *,
    texture: int | None = None, faces: int | None = None, resolution: int | None = None,
    threshold: float | str | None = None, overwrite: bool = False, size_mm: float | None = None,
    unlit: bool = False, points: int | None = None, remesh: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the mesh of a run's scene; see `Reconstruction.export`.

    Args:
      run: the folder, whose views the surface may be chosen by.
    """
    path = Path(path).expanduser()
    options = FileOptions(size_mm, unlit, points, provenance(state.load_metadata(run)))
    options.check(path)
    if remesh:
        remeshing.check(remesh)
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it")
    make_folder(path.parent)
    if not overwrite and (theirs := _not_own(run, path)):
        raise UserError(
            f"{theirs} is there and no export of this run: name another file, or add --overwrite"
        )
    mesh = spec.mesh
    if resolution and not faces:
        faces = 20 * resolution**2
    if faces:
        mesh = dataclasses.replace(mesh, faces=faces)
    if texture:
        mesh = dataclasses.replace(mesh, texture=texture)
    if threshold == "auto":
        mesh = dataclasses.replace(mesh, threshold=0.0)
    spec = dataclasses.replace(spec, mesh=mesh)
    facts: dict[str, Any] = {}
    if threshold is None or threshold == "auto":
        steps = Steps("surface")
        steps("choosing the density on it", 0, 0)
        level, facts = surface.choose_surface(scene, spec, draft.load_hull(run, spec))
        steps.close()
    else:
        level = float(threshold)
    written = facts | surface.write_mesh(
        path, scene, spec, level, resolution, options=options, remesh=remesh
    )
    _note_own(run, _files_of(path))
    return written


EXPORTS = "exports.json"  # of a run: the size and the time of what its exports wrote, by path


def _files_of(path: Path) -> list[Path]:
    """What a mesh file's writing makes: OBJ has a material and a picture beside it."""
    beside = (".mtl", ".png") if path.suffix.lower() == ".obj" else ()
    return [path, *(path.with_suffix(suffix) for suffix in beside)]


def _stamp(path: Path) -> list[int]:
    return [path.stat().st_size, path.stat().st_mtime_ns]


def _noted(run: Path) -> dict[str, Any]:
    return read_object(run / EXPORTS) if (run / EXPORTS).is_file() else {}


def _not_own(run: Path, path: Path) -> Path | None:
    """A file that would be overwritten and that no export of the run has written."""
    noted = _noted(run)
    for file in _files_of(path):
        by_name = file.stem == "mesh" and file.parent.resolve() == run.resolve()
        if file.exists() and not by_name and noted.get(str(file.resolve())) != _stamp(file):
            return file
    return None


def _note_own(run: Path, files: list[Path]) -> None:
    """Notes what an export wrote outside the run's own names; a read-only run notes nothing."""
    outside = [f for f in files if f.stem != "mesh" or f.parent.resolve() != run.resolve()]
    if not outside or not os.access(run, os.W_OK):
        return
    noted = _noted(run)
    noted |= {str(file.resolve()): _stamp(file) for file in outside}
    with atomic_path(run / EXPORTS) as temporary:
        temporary.write_text(json.dumps(noted, indent=1) + "\n")
