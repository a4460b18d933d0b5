"""Which program opens which mesh file, and what it finds in it: a table for docs/reconstruction.md.

    python benchmarks/mesh_formats.py --run out/demo --blender_python VENV/bin/python \
        --lib3mf_python VENV/bin/python

Writes a run's mesh in every format and opens each with the programs that are there: trimesh,
usd-core (its validators, which are usdchecker's), PrusaSlicer (`prusa-slicer --info`), with
`--chromium` the page's model-viewer, which is three.js, and, in environments of their own, Blender
(`pip install bpy`) and lib3mf.
Prints rows of Markdown; a program that refuses a file is a row that says so.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import trimesh  # noqa: E402

from iso3d_jax.mesh import files, remeshing  # noqa: E402
from iso3d_jax.reconstruction import state, surface  # noqa: E402
from iso3d_jax.reconstruction.report_file import provenance, read_report  # noqa: E402

BLENDER = """
import bpy, json, sys
path, kind = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
read = {
    "glb": bpy.ops.import_scene.gltf, "obj": bpy.ops.wm.obj_import, "ply": bpy.ops.wm.ply_import,
    "stl": bpy.ops.wm.stl_import, "usdz": bpy.ops.wm.usd_import,
}[kind]
read(filepath=path)
mesh = next(o for o in bpy.data.objects if o.type == "MESH").data
print("FOUND " + json.dumps([
    bpy.app.version_string, len(mesh.polygons), sum(len(p.vertices) == 4 for p in mesh.polygons),
    [tuple(i.size) for i in bpy.data.images if i.has_data or i.size[0]], len(mesh.color_attributes),
]))
"""
LIB3MF = """
import json, sys, lib3mf
wrapper = lib3mf.get_wrapper()
model = wrapper.CreateModel()
reader = model.QueryReader("3mf")
reader.SetStrictModeActive(True)
reader.ReadFromFile(sys.argv[1])
meshes = model.GetMeshObjects()
meshes.MoveNext()
mesh = meshes.GetCurrentMeshObject()
textures = model.GetTexture2Ds()
print("FOUND " + json.dumps([
    ".".join(map(str, wrapper.GetLibraryVersion())), mesh.GetTriangleCount(),
    mesh.IsManifoldAndOriented(), textures.Count(), reader.GetWarningCount(),
]))
"""


def ask(command: list[str]) -> list:
    """What a program of an environment of its own found."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("FOUND "):
            return json.loads(line.removeprefix("FOUND "))
    last = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
    raise RuntimeError(last[-1])


def with_trimesh(path: Path) -> str:
    mesh = trimesh.load(path, force="mesh", process=False)
    seen = type(mesh.visual).__name__.removesuffix("Visuals").lower()
    return f"trimesh {trimesh.__version__}: {len(mesh.faces)} triangles, {seen}"


def with_blender(path: Path, kind: str, python: str) -> str:
    version, faces, quads, images, colours = ask([python, "-c", BLENDER, str(path), kind])
    shown = f"{faces} faces" + (f", {quads} of them quads" if quads else "")
    sizes = ", ".join(f"picture of {w}x{h}" for w, h in images)
    return f"Blender {version}: " + ", ".join(
        filter(None, [shown, sizes, "vertex colours" if colours else ""])
    )


def with_lib3mf(path: Path, python: str) -> str:
    version, faces, closed, textures, warnings = ask([python, "-c", LIB3MF, str(path)])
    shape = "manifold and oriented" if closed else "not manifold"
    return (
        f"lib3mf {version}, strict: {faces} triangles, {shape}, {textures} texture, "
        f"{warnings} warnings"
    )


def with_prusa_slicer(path: Path) -> str:
    done = subprocess.run(
        ["prusa-slicer", "--info", str(path)], capture_output=True, text=True, timeout=300,
        check=True,
    )  # fmt: skip
    found = dict(re.findall(r"^(\w+) = (.*?)\s*$", done.stdout, re.M))
    if "number_of_facets" not in found:
        raise RuntimeError(done.stderr.strip() or "no mesh")
    size = " x ".join(f"{float(found[f'size_{axis}']):.0f}" for axis in "xyz")
    return (
        f"PrusaSlicer: {found['number_of_facets']} triangles, manifold {found['manifold']}, "
        f"{size} mm"
    )


def with_usd(path: Path) -> str:
    from pxr import Usd, UsdValidation

    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    stage = Usd.Stage.Open(str(path))
    wrong = UsdValidation.ValidationContext(validators).Validate(stage)
    if wrong:
        raise RuntimeError("; ".join(error.GetMessage() for error in wrong))
    version = ".".join(map(str, Usd.GetVersion()[1:]))
    return f"usd-core {version}: {len(validators)} validators (those of usdchecker), no error"


def with_chromium(path: Path, folder: Path) -> str:
    from mesh_colours import Viewer

    viewer = Viewer(folder, 128)
    try:
        shown = viewer.show(path, "", [(15.0, 0.0)])[0]
    finally:
        viewer.browser.close()
    return f"model-viewer in Chromium: shown, {(shown.min(-1) < 0.9).mean():.0%} of the picture"


def open_all(folder: Path, mesh, quads, facts: dict, args) -> Iterator[tuple[str, str]]:
    """File names with what each program says of them."""
    for kind in files.FORMATS:
        path = folder / f"mesh.{kind}"
        files.write(path, mesh, files.FileOptions(facts=facts))
        programs = [] if kind in ("usdz", "3mf") else [lambda path=path: with_trimesh(path)]
        if kind == "glb" and args.chromium:
            programs.append(lambda path=path: with_chromium(path, folder))
        if kind == "usdz":
            programs.append(lambda path=path: with_usd(path))
        if kind != "3mf" and args.blender_python:
            programs.append(lambda p=path, k=kind: with_blender(p, k, args.blender_python))
        if kind == "3mf" and args.lib3mf_python:
            programs.append(lambda path=path: with_lib3mf(path, args.lib3mf_python))
        if kind in ("stl", "3mf", "obj") and shutil.which("prusa-slicer"):
            programs.append(lambda path=path: with_prusa_slicer(path))
        for program in programs:
            yield path.name, say(program)
    if quads is not None:
        (path, *_) = files.write(folder / "quads.obj", quads)
        if args.blender_python:
            yield (
                "quads.obj (--remesh quads)",
                say(lambda: with_blender(path, "obj", args.blender_python)),
            )


def say(program) -> str:
    try:
        return program()
    except Exception as error:
        return f"refused: {error}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--blender_python", help="a Python that has bpy")
    parser.add_argument("--lib3mf_python", help="a Python that has lib3mf")
    parser.add_argument("--chromium", action="store_true")
    args = parser.parse_args()
    spec = state.load_spec(args.run)
    scene = state.load(args.run, spec)
    level = read_report(args.run)["mesh"]["threshold"]
    mesh, _ = surface.make_mesh(scene, spec, level)
    quads = None
    try:
        remeshing.check("quads")
        quads, _ = surface.make_mesh(scene, spec, level, remesh="quads")
    except Exception as error:
        print(f"no quads: {error}", file=sys.stderr)
    print("| file | opened by, and what it finds |\n| --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        facts = provenance(state.load_metadata(args.run))
        for name, found in open_all(Path(folder), mesh, quads, facts, args):
            print(f"| {name} | {found} |", flush=True)


if __name__ == "__main__":
    main()
