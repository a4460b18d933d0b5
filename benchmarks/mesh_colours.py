"""How far the colours of a run's mesh are from those of its field, from the same sides.

    python benchmarks/mesh_colours.py --run out/demo --chromium

The field is shown as the turntable shows it. The texture is drawn without light by the package's
rasterizer from the same cameras and, with `--chromium`, the run's own mesh.glb by the model-viewer
of the run's page, with that page's light and with others. Differences are over pixels that the
field fills and the mesh covers whole, in 8-bit levels: the mean with its sign (below zero: the mesh
is darker), of all channels and of each pixel's size; `inside` leaves out pixels within three of an
outline. `own side` are the views' own cameras, `other sides` higher and lower ones between them.
"""

import argparse
import base64
import io
import sys
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "pages")]

from measuring import report  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import ndimage  # noqa: E402

from iso3d_jax.geometry import camera_sets  # noqa: E402
from iso3d_jax.geometry.cameras import camera_to_world  # noqa: E402
from iso3d_jax.mesh import drawing, files  # noqa: E402
from iso3d_jax.reconstruction import pictures, state, surface  # noqa: E402
from iso3d_jax.reconstruction.report_file import read_report  # noqa: E402

FOV_DEG, SCALE = pictures.SHOW["fov_deg"], pictures.SHOW["scale"]
DISTANCE = SCALE / np.tan(np.deg2rad(FOV_DEG) / 2)
# elevation, first azimuth of four: the turntable's own cameras, and others
SIDES = {"own side": [(15.0, 0.0), (15.0, 45.0)], "other sides": [(-10.0, 20.0), (45.0, 65.0)]}
LIGHTS = {
    "as the page has it": 'shadow-intensity="0.5" exposure="0.9" tone-mapping="neutral"',
    "no tone mapping, exposure 1": 'exposure="1" tone-mapping="none"',
    "unlit file, neutral, exposure 0.9": 'unlit exposure="0.9" tone-mapping="neutral"',
    "unlit file, none, exposure 1": 'unlit exposure="1" tone-mapping="none"',
}


def difference(shown: np.ndarray, field: np.ndarray, common: np.ndarray) -> dict[str, float]:
    """Levels between pictures in [0, 1], over the common pixels."""
    error = 255.0 * (shown.astype(np.float64) - field)[common]
    return {
        "signed": round(float(error.mean()), 2),
        "absolute": round(float(np.abs(error).mean()), 2),
        "share_of_pixels": round(float(common.mean()), 4),
    }


def compare(shown, field, common) -> dict[str, dict[str, float]]:
    """`difference` over all common pixels and over those inside outlines."""
    inside = np.stack([ndimage.binary_erosion(mask, iterations=3) for mask in common])
    return {
        "all": difference(shown, field, common),
        "inside": difference(shown, field, inside),
    }


class Viewer:
    """The page's model-viewer in Chromium, showing a file from given sides."""

    def __init__(self, folder: Path, side: int):
        import shutil

        from conftest import Browser

        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            sys.exit("--chromium needs chromium")
        self.folder, self.side = folder, side
        self.browser = Browser(program, folder / "profile")

    def show(self, glb: Path, attributes: str, cameras: list[tuple[float, float]]) -> np.ndarray:
        """Pictures [V, S, S, 3] in [0, 1], on white, of (elevation, azimuth) in degrees."""
        vendor = resources.files("iso3d_jax.pages").joinpath("vendor", "model-viewer-umd.min.js")
        data = base64.b64encode(glb.read_bytes()).decode()
        page = self.folder / "viewer.html"
        page.write_text(
            f"<style>body{{margin:0}}model-viewer{{width:{self.side}px;height:{self.side}px;"
            "background:#fff;--progress-bar-height:0px}</style>"
            f'<model-viewer id="m" src="data:model/gltf-binary;base64,{data}" '
            'camera-target="0m 0m 0m" max-field-of-view="90deg" interaction-prompt="none" '
            f'field-of-view="{FOV_DEG}deg" min-camera-orbit="auto 0deg auto" '
            f'max-camera-orbit="auto 180deg 100m" {attributes}></model-viewer>'
            f"<script>{vendor.read_text(encoding='utf-8')}</script>"
        )
        self.browser.open(page)
        self.browser.wait_for("document.getElementById('m').loaded")
        found = []
        for elevation, azimuth in cameras:
            orbit = f"{azimuth}deg {90 - elevation}deg {DISTANCE}m"
            self.browser.evaluate(
                f"(async () => {{const m = document.getElementById('m'); m.cameraOrbit = '{orbit}';"
                "await m.updateComplete; m.jumpCameraToGoal(); "
                "for (let k = 0; k < 4; k++) await new Promise(requestAnimationFrame);})()"
            )
            text = self.browser.evaluate("document.getElementById('m').toDataURL('image/png')")
            picture = Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2])))
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
            if picture.size != (self.side, self.side):
                raise ValueError(f"the viewer's picture is {picture.size}, not {self.side} wide")
            found.append(np.asarray(picture) / 255.0)
        return np.stack(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--side", type=int, default=224, help="of the pictures, in pixels")
    parser.add_argument("--chromium", action="store_true", help="show the mesh in the viewer too")
    parser.add_argument("--pictures", type=Path, help="a PNG of what was compared")
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    spec, scene = state.load_spec(args.run), None
    scene = state.load(args.run, spec)
    threshold = read_report(args.run)["mesh"]["threshold"]
    sharp = surface.sharpen(scene, spec, threshold)
    mesh, _ = surface.make_mesh(scene, spec, threshold)
    result = {"command": "python benchmarks/mesh_colours.py " + " ".join(sys.argv[1:])}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        viewer = Viewer(Path(folder), args.side) if args.chromium else None
        lit, unlit = Path(folder) / "lit.glb", Path(folder) / "unlit.glb"
        files.write(lit, mesh)
        files.write(unlit, mesh, files.FileOptions(unlit=True))
        for name, rings in SIDES.items():
            cameras = [(e, (first + k * 90.0) % 360) for e, first in rings for k in range(4)]
            field, opacity = (
                np.concatenate(parts)
                for parts in zip(*(
                    pictures.render_views(
                        sharp, camera_sets.ring(4, e, FOV_DEG, SCALE, start=first), args.side, spec
                    )[:2]
                    for e, first in rings
                ), strict=True)
            )  # fmt: skip
            drawn = [
                drawing.draw(mesh, np.asarray(camera_to_world(*c, DISTANCE)), FOV_DEG, args.side)
                for c in cameras
            ]
            texture, covered = (np.stack(x) for x in zip(*drawn, strict=True))
            common = (covered > 0.999) & (opacity > 0.98)
            result[name] = {"texture": compare(texture, field, common)}
            rows += [list(field[:4]), list(texture[:4])]
            for light, attributes in LIGHTS.items() if viewer else ():
                file = unlit if attributes.startswith("unlit") else lit
                shown = viewer.show(file, attributes.removeprefix("unlit"), cameras)
                result[name][f"viewer: {light}"] = compare(shown, field, common)
                rows.append(list(shown[:4]))
        if viewer:
            viewer.browser.close()
    if args.pictures:
        sheet = np.concatenate([np.concatenate(row, 1) for row in rows])
        Image.fromarray(np.round(sheet.clip(0, 1) * 255).astype(np.uint8)).save(args.pictures)
    report(result, args.result)


if __name__ == "__main__":
    main()
