"""The two renderers side by side: how far their masks agree, and what a view costs each.

    python -m benchmarks.data_at_scale.backends --assets MESHES --blender_python PYTHON \
        --result benchmarks/results/data_at_scale_backends.json --sheet sheet.png

A mask is where alpha is above one half; what is given is the intersection over the union. The exit
status is 1 where it is below 0.95 for an object.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))
os.environ["LP_NUM_THREADS"] = "1"

from measuring import machine, report  # noqa: E402

from iso3d_jax.data import asset_sources, render  # noqa: E402
from iso3d_jax.data.blender import Blender  # noqa: E402
from iso3d_jax.data.rasterizer import Rasterizer  # noqa: E402

BOUND = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--assets", required=True, help="as of data.render")
    parser.add_argument("--blender_python", default="", help="an interpreter that has bpy")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--views", type=int, default=1, help="of each object, at most 4")
    parser.add_argument("--sheet", type=Path, help="PNG: the rasterizer's view, then Blender's")
    parser.add_argument("--result", type=Path, help="JSON file")
    args = parser.parse_args()
    objects, rows, seconds = {}, [], {"rasterizer": 0.0, "blender": 0.0}
    blender = Blender(args.resolution, args.samples, python=args.blender_python)
    with blender, Rasterizer(args.resolution) as rasterizer:
        for asset in asset_sources.find_assets(args.assets.split(",")):
            parts = asset_sources.load_asset(asset)
            cameras = render.sample_cameras(asset.name, 0, 1)
            pictures: dict[str, np.ndarray] = {}
            for name, renderer in (("rasterizer", rasterizer), ("blender", blender)):
                start = time.perf_counter()
                renderer.load(parts)
                pictures[name] = np.stack(
                    [
                        renderer.render(cameras["c2w"][k], cameras["fov_deg"][k])
                        for k in range(args.views)
                    ]
                )
                seconds[name] += time.perf_counter() - start
            a, b = (picture[..., 3] > 127 for picture in pictures.values())
            objects[asset.name] = round(float((a & b).sum() / (a | b).sum()), 4)
            rows.append(np.concatenate([*pictures["rasterizer"], *pictures["blender"]], 1))
            print(asset.name, objects[asset.name], flush=True)
    if args.sheet:
        sheet = Image.fromarray(np.concatenate(rows))
        white = Image.new("RGBA", sheet.size, "white")
        white.alpha_composite(sheet)
        white.convert("RGB").save(args.sheet)
    views = len(objects) * args.views
    report(
        {
            "machine": machine(),
            "blender": blender.version,
            "resolution": args.resolution,
            "samples": args.samples,
            "intersection over union": objects,
            "seconds a view": {k: round(v / views, 3) for k, v in seconds.items()},
        },
        args.result,
    )
    sys.exit(int(min(objects.values()) < BOUND))


if __name__ == "__main__":
    main()
