"""Writes the mesh of a reconstruction again: as another format, finer, or at another threshold.

    python -m iso3d_jax.export --run runs/chair --format obj

glb: one file with the texture, Y up, metres. obj: with .mtl and .png beside it, Y up. usdz: what
iPhones and Macs show without an app. ply: vertex colours, Z up; with --points a cloud of points.
stl, 3mf: for printers, --size_mm long and standing on the plate; 3mf has the texture. With
`--turntable FILE.mp4` (or .webp, .gif) it writes a turntable instead, of another size if you like.
"""

from pathlib import Path

from iso3d_jax.commands import command_line, paths
from iso3d_jax.core.errors import UserError
from iso3d_jax.core.files import check_folder

flags = command_line.flags_for(__name__)

_RUN = flags.DEFINE_string("run", None, "folder that reconstruct wrote", required=True)
_FORMAT = flags.DEFINE_enum(
    "format", "glb", ["glb", "obj", "ply", "stl", "3mf", "usdz"], "kind of file"
)
_OUT = flags.DEFINE_string("out", None, "file to write; mesh.FORMAT in the run's folder by default")
_THRESHOLD = flags.DEFINE_string(
    "threshold", None, "density on the surface (released: 25), or auto; the run's own by default"
)
_RESOLUTION = flags.DEFINE_integer(
    "resolution", None, "marching cubes along the longest side; the run's own by default",
    lower_bound=16, upper_bound=1024,
)  # fmt: skip
_FACES = flags.DEFINE_integer(
    "faces", None, "at most this many triangles, with --remesh about this many faces; the run's "
    "own by default", 100, command_line.MOST,
)  # fmt: skip
_REMESH = flags.DEFINE_enum(
    "remesh", None, ["quads", "triangles"],
    "faces of even size in the place of simplified ones; obj has quads (extra remesh)",
)  # fmt: skip
_TEXTURE = flags.DEFINE_integer(
    "texture", None, "side of the texture, pixels; the run's own by default",
    lower_bound=64, upper_bound=8192,
)  # fmt: skip
_SIZE_MM = flags.DEFINE_float(
    "size_mm", None, "longest side of stl and 3mf; 100 by default", 0.01, 1e6
)
_UNLIT = flags.DEFINE_boolean("unlit", False, "the glb shows its colours without light")
_POINTS = flags.DEFINE_integer(
    "points", None, "the ply holds so many points and no faces", 1, command_line.MOST
)
_TURNTABLE = flags.DEFINE_string(
    "turntable", None, "write this .mp4, .webp or .gif of the object turning, and no mesh"
)
_TURNTABLE_SIZE = flags.DEFINE_integer(
    "turntable_size", None, "side of its pictures, pixels; the run's own by default", 16, 4096
)
_TURNTABLE_FRAMES = flags.DEFINE_integer(
    "turntable_frames", None, "how many there are in a round; the run's own by default", 1, 10_000
)
_OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "replace files that no export of this run has written"
)


def write_turntable(run: Path, path: Path) -> None:
    """Writes --turntable."""
    from iso3d_jax.reconstruction import turntable_file

    turntable_file.check(path)
    paths.run("--run", str(run))
    if path.is_dir():
        raise UserError(f"--turntable {path} is a folder: name a file in it")
    if path.exists() and not _OVERWRITE.value:
        raise UserError(f"--turntable {path} is there: name another file, or add --overwrite")
    check_folder(path.parent)

    from iso3d_jax.reconstruction.result import Reconstruction

    result = Reconstruction.load(run)
    result.save_turntable(path, frames=_TURNTABLE_FRAMES.value, size=_TURNTABLE_SIZE.value)
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB")


def main(argv):
    """Reads the run and writes the mesh, or its turntable."""
    del argv
    if _TURNTABLE.value:
        write_turntable(Path(_RUN.value), Path(_TURNTABLE.value))
        return
    for flag in (_TURNTABLE_SIZE, _TURNTABLE_FRAMES):
        if flag.value is not None:
            raise UserError(f"--{flag.name} is for --turntable FILE")
    try:
        threshold = None if _THRESHOLD.value in (None, "auto") else float(_THRESHOLD.value)
    except ValueError:
        raise UserError(f"--threshold is auto or a number, not {_THRESHOLD.value!r}") from None
    if threshold is not None and not 0 < threshold < float("inf"):
        raise UserError(f"--threshold is above zero, not {threshold:g}")
    run = Path(_RUN.value)
    out = Path(_OUT.value) if _OUT.value else run / f"mesh.{_FORMAT.value}"
    if out.suffix.lower() != f".{_FORMAT.value}":
        raise UserError(f"--out {out} does not end in .{_FORMAT.value}, the --format")

    from iso3d_jax.mesh import remeshing
    from iso3d_jax.mesh.files import FileOptions

    FileOptions(_SIZE_MM.value, _UNLIT.value, _POINTS.value).check(out)
    if _REMESH.value:
        remeshing.check(_REMESH.value)
    paths.run("--run", _RUN.value)
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it")
    check_folder(out.parent)

    from iso3d_jax.reconstruction.result import export_run

    facts = export_run(
        run, out, texture=_TEXTURE.value, faces=_FACES.value, resolution=_RESOLUTION.value,
        threshold="auto" if _THRESHOLD.value == "auto" else threshold, overwrite=_OVERWRITE.value,
        size_mm=_SIZE_MM.value, unlit=_UNLIT.value, points=_POINTS.value, remesh=_REMESH.value,
    )  # fmt: skip
    alike = ""
    if "silhouette_iou" in facts:
        alike = f", silhouettes agree to {facts['silhouette_iou']:.3f}"
    faces = f"{facts['faces']} faces"
    if facts.get("quads"):
        faces = f"{facts['quads']} quads ({facts['quads_cut']} of them cut by the unwrapping)"
    edges = facts["edges_not_between_two_triangles"]
    closed = "closed" if facts["watertight"] else f"not closed ({edges} open edges)"
    print(
        f"wrote {', '.join(str(out.parent / name) for name in facts['files'])}: {faces}, "
        f"{closed}, {facts['bytes'] / 1e6:.1f} MB, density threshold {facts['threshold']:.3g}"
        f"{alike}"
    )


if __name__ == "__main__":
    command_line.run(main)
