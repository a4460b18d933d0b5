"""Whole mesh files of strangers, each read and drawn once: what becomes of them.

    python benchmarks/sample_assets.py FOLDER ... --sheets OUT --result FILE

For glTF the folder to give is `Models` of the Khronos sample assets, for the rest the test models
of the libraries that read these formats. Each file goes through `asset_sources.load_asset` and
`rasterizer.Rasterizer` in a child process, with the limits of `data.render`:

    rendered    drawn, and nothing is known to be missing
    with note   drawn, and the note says what is missing or left away
    left out    not drawn, for the reason given
    empty       drawn, and nothing is seen
    fault       an exception that is not ours, a crash, a hang, or too much memory

Files of one model in several forms (`glTF`, `glTF-Binary`, `glTF-Draco`, ...) must look the same:
where one differs from the first of them, the table says by how much. OUT gets contact sheets, with
the model's own picture from `screenshot/` beside it, at the left of each pair.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from iso3d_jax.core import child_processes  # noqa: E402
from iso3d_jax.data import asset_sources, meshes, rasterizer, render  # noqa: E402

RESOLUTION, ELEVATION, AZIMUTH, FOV = 256, 15.0, 20.0, 30.0
OUTCOMES = ("rendered", "with note", "left out", "empty", "fault")
ALIKE = 4.0  # mean difference of 255 of two forms of a model: textures of JPEG beside PNG
CELL, COLUMNS, ROWS = 176, 5, 7  # of a sheet, in pairs


def make_machine(resolution: int) -> rasterizer.Rasterizer:
    """The renderer and the camera, which a process makes once."""
    return rasterizer.Rasterizer(resolution)


def attempt(machine: render.Renderer, asset: asset_sources.Asset) -> dict[str, Any]:
    """One object: outcome, what is said of it, and its picture, [H, W, 4] uint8 or None."""
    from iso3d_jax.geometry import cameras

    notes: list[str] = []
    try:
        if asset.fault:
            raise meshes.BadMesh(asset.fault)
        parts = asset_sources.load_asset(asset, notes.append)
        machine.load(parts)
        distance = 1.05 / np.tan(np.radians(FOV) / 2)
        # What has no back may look away, or down.
        for elevation, azimuth in ((ELEVATION, AZIMUTH), (-ELEVATION, AZIMUTH + 180)):
            c2w = np.asarray(cameras.camera_to_world(elevation, azimuth, distance))
            picture = machine.render(c2w, FOV)
            if picture[..., 3].any():
                break
    except meshes.BadMesh as e:
        return {"outcome": "left out", "said": str(e), "picture": None}
    except MemoryError:
        raise
    except Exception as e:
        return {"outcome": "fault", "said": f"{type(e).__name__}: {e}", "picture": None}
    outcome = "with note" if notes else "rendered"
    return {
        "outcome": outcome if picture[..., 3].any() else "empty",
        "said": "; ".join(dict.fromkeys(notes)),
        "flat": asset_sources.shape_refusal(parts) is not None,
        "picture": picture,
    }


def on_white(picture: np.ndarray) -> np.ndarray:
    """[H, W, 4] on white, float32 [H, W, 3] of 255."""
    alpha = picture[..., 3:].astype(np.float32) / 255
    return picture[..., :3] * alpha + 255 * (1 - alpha)


def screenshot(path: Path) -> Path | None:
    """The picture that people made of a model: in `screenshot` beside its file or its folder."""
    for folder in (path.parent, path.parent.parent):
        files = sorted(folder.glob("screenshot*/*"))
        files.sort(key=lambda file: not file.stem.startswith("screenshot"))
        for found in files:
            if found.suffix.lower() in (".png", ".jpg", ".jpeg", ".gif", ".webp"):
                return found
        for found in (folder / "Figures" / "SampleImages").glob(f"{path.stem}.*"):
            return found
    return None


def compare_forms(rows: list[dict]) -> None:
    """Notes where a model's file looks unlike the first form of the same model."""
    first: dict[tuple, np.ndarray] = {}
    for row in rows:
        if row["picture"] is None or not row["path"].parent.name.startswith("glTF"):
            continue
        seen = on_white(row["picture"])
        key = (row["path"].parent.parent, row["path"].stem)
        difference = float(np.abs(seen - first.setdefault(key, seen)).mean())
        if difference > ALIKE:
            row["unlike"] = round(difference, 1)


def describe(row: dict) -> str:
    """A row in words."""
    text = row["outcome"] + (f": {row['said']}" if row["said"] else "")
    return text + (f" (unlike the first form by {row['unlike']})" if "unlike" in row else "")


def write_sheets(rows: list[dict], out: Path) -> None:
    """Pages of pairs: the model's own picture and ours, with the name and outcome below."""
    out.mkdir(parents=True, exist_ok=True)
    width, height = COLUMNS * (2 * CELL + 8), CELL + 28
    for first in range(0, len(rows), COLUMNS * ROWS):
        sheet = Image.new("RGB", (width, ROWS * height), "white")
        pen = ImageDraw.Draw(sheet)
        for k, row in enumerate(rows[first : first + COLUMNS * ROWS]):
            x, y = k % COLUMNS * (2 * CELL + 8), k // COLUMNS * height
            own = screenshot(row["path"])
            if own is not None:
                picture = Image.open(own).convert("RGB")
                picture.thumbnail((CELL, CELL))
                sheet.paste(picture, (x, y))
            if row["picture"] is not None:
                ours = Image.fromarray(on_white(row["picture"]).astype(np.uint8))
                sheet.paste(ours.resize((CELL, CELL)), (x + CELL, y))
            unlike = f" unlike {row['unlike']}" if "unlike" in row else ""
            colour = "black" if row["outcome"] == "rendered" and not unlike else "red"
            pen.text((x, y + CELL), f"{row['name'][-56:]}{unlike}", fill=colour)
            pen.text((x, y + CELL + 12), f"{row['outcome']}: {row['said']}"[:58], fill=colour)
        sheet.save(out / f"sheet_{first // (COLUMNS * ROWS):02d}.png")


def find(folders: list[str]) -> list[tuple[str, asset_sources.Asset]]:
    """Every mesh file of the folders, by the folder's name and its path below it."""
    found = []
    for folder in folders:
        for asset in asset_sources.find_assets([folder]):
            if not asset.model:
                below = asset.path.relative_to(folder).as_posix()
                found.append((f"{Path(folder).resolve().name}/{below}", asset))
    return found


def main() -> None:
    """Tries every file, prints the table, and writes it and the sheets."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--result", type=Path)
    args = parser.parse_args()
    named = find(args.folders)
    names = {asset.path: name for name, asset in named}
    seconds, memory = render.limits(render.How(RESOLUTION, sets=1))
    results = child_processes.run_each(
        [asset for _, asset in named],
        functools.partial(make_machine, RESOLUTION),
        attempt,
        workers=args.workers,
        seconds=seconds,
        memory=memory,
    )
    rows = []
    for asset, result in results:
        if isinstance(result, child_processes.Lost):
            result = {"outcome": "fault", "said": result.reason, "picture": None}
        rows.append(result | {"name": names[asset.path], "path": asset.path})
    rows.sort(key=lambda row: row["name"])
    compare_forms(rows)
    if args.sheets:
        write_sheets(rows, args.sheets)
    table = collections.Counter(row["outcome"] for row in rows)
    report = {
        "command": "python benchmarks/sample_assets.py FOLDER ...",
        "files": len(rows),
        "outcomes": {outcome: table[outcome] for outcome in OUTCOMES},
        "forms unlike the first of a model": sum("unlike" in row for row in rows),
        "of those drawn, flat or thin": sum(row.get("flat", False) for row in rows),
        "rows": {row["name"]: describe(row) for row in rows},
    }
    for name, text in report["rows"].items():
        print(f"{name}\t{text}")
    print(json.dumps({k: v for k, v in report.items() if k != "rows"}, indent=1))
    if args.result:
        args.result.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
