"""Makes a multi-view data set from meshes.

    python -m iso3d_jax.data.render --assets /usr/share/sweethome3d/furniture --out DIR

Each object is rendered from `--sets` sets of four orthogonal cameras. A set has one elevation in
[0, 30] degrees, one field of view in [15, 60] degrees and one distance s / tan(fov / 2) with s in
[1, 1.15]; its azimuths are a random base + 0, 90, 180, 270 degrees. Objects sit in the unit
sphere, Z-up, with their front at azimuth 0. With `--stretch S` each is first made longer or shorter
along its three axes, by factors between exp(-S) and exp(S): further seeds of the same meshes are
then further objects. `--warp W` does the same to each of six pieces of every axis.

An object's cameras and proportions depend on --seed and its name alone, so neither the order nor
--workers changes the result, and a second run goes on where the first one stopped.
`DIR/multiview` is the data set for `iso3d_jax.data.multiview.open_dataset(DIR, split)`,
`DIR/objects/NAME.npz` are the renders one by one, `DIR/icons/NAME.png` the catalogue's own
pictures, `DIR/CREDITS.md` says who made what under which licence, and `DIR/skipped.txt` what was
left out and why, and what others lack that were rendered: a texture or material that is not there.
Meshes stand with their y axis up, as glTF says; `--up z` turns those that were made otherwise.
An object that takes a minute or 3 GiB, or ends its worker process, is left out for that reason.
"""

import contextlib
import difflib
import functools
import os
import pathlib
import pkgutil
import time
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from iso3d_jax.commands import command_line
from iso3d_jax.core import child_processes
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import Difference, atomic_path, ensure_same_folder, make_folder
from iso3d_jax.data import asset_sources, meshes, multiview, rasterizer
from iso3d_jax.data.names import hash_name
from iso3d_jax.data.table import SET

flags = command_line.flags_for(__name__)

FOV_RANGE = (15.0, 60.0)
ELEVATION_RANGE = (0.0, 30.0)
DISTANCE_SCALE_RANGE = (1.0, 1.15)
# What --stretch and --warp ask for, imported only then: `change(parts, name, seed, stretch, warp)`.
PROPORTIONS = "iso3d_jax.tiny.proportions:change"


@runtime_checkable
class Renderer(Protocol):
    """What an object is rendered with: a `Rasterizer`."""

    def load(self, parts: list[meshes.Part]) -> None:
        """Takes the parts of one object, in place of the last one's."""
        ...

    def render(
        self, c2w: Float[np.ndarray, "4 4"], fov_deg: float
    ) -> UInt8[np.ndarray, "res res 4"]:
        """One view of them, straight-alpha RGBA."""
        ...


def sample_cameras(name: str, seed: int, sets: int) -> dict[str, np.ndarray]:
    """The cameras of an object: a pure function of its name and the seed.

    Returns:
      azimuth_deg, elevation_deg, fov_deg, distance float32 [4 * sets], set_index int32 [4 * sets],
      c2w float32 [4 * sets, 4, 4].
    """
    from iso3d_jax.geometry import cameras  # imports JAX, which wrong flags need not wait for

    rng = np.random.default_rng([seed, hash_name(name)])
    columns = []
    for _ in range(sets):
        base = rng.uniform(0, 360)
        elevation, fov = rng.uniform(*ELEVATION_RANGE), rng.uniform(*FOV_RANGE)
        distance = rng.uniform(*DISTANCE_SCALE_RANGE) / np.tan(np.radians(fov) / 2)
        for k in range(SET):
            columns.append(((base + 90 * k) % 360, elevation, fov, distance))
    azimuth, elevation, fov, distance = np.array(columns, np.float32).T
    return {
        "azimuth_deg": azimuth,
        "elevation_deg": elevation,
        "fov_deg": fov,
        "distance": distance,
        "set_index": np.repeat(np.arange(sets, dtype=np.int32), SET),
        "c2w": np.asarray(cameras.camera_to_world(elevation, azimuth, distance), np.float32),
    }


def render_object(
    asset: asset_sources.Asset,
    machine: Renderer,
    seed: int,
    sets: int,
    stretch: float = 0.0,
    warp: float = 0.0,
) -> dict[str, np.ndarray]:
    """One record of the data set: cameras, `images` uint8 [4 * sets, res, res, 4] and the names;
    `lacks` says what of the object could not be drawn.

    Raises:
      meshes.BadMesh: the object cannot be read, is flat, thin or cannot be seen.
    """
    notes: list[str] = []
    parts = asset_sources.load_asset(asset, notes.append)
    refusal = asset_sources.shape_refusal(parts)
    if refusal:
        raise meshes.BadMesh(refusal)
    if stretch or warp:
        change = pkgutil.resolve_name(PROPORTIONS)
        parts = change(parts, asset.name, seed, stretch, warp)
    record = sample_cameras(asset.name, seed, sets)
    machine.load(parts)
    record["images"] = np.stack(
        [machine.render(c, f) for c, f in zip(record["c2w"], record["fov_deg"], strict=True)]
    )
    covered = (record["images"][..., 3] > 0).mean((1, 2))
    if covered.min() < 0.005:
        raise meshes.BadMesh(f"hardly visible: {100 * covered.min():.2f}% of a view is covered")
    metadata = {
        "name": asset.name,
        "title": asset.title,
        "category": asset.category,
        "creator": asset.creator,
        "license": asset.license,
        "source": asset.source,
        "split": asset_sources.assign_split(asset.name),
        "lacks": "; ".join(dict.fromkeys(notes)),
    }
    return record | {key: np.array(value) for key, value in metadata.items()}


_ASSETS = flags.DEFINE_list(
    "assets", None, "folders of meshes, mesh files, .sh3f catalogues, procedural:N; with commas",
    required=True,
)  # fmt: skip
_OUT = flags.DEFINE_string("out", None, "folder of the data set", required=True)
_RESOLUTION = flags.DEFINE_integer("resolution", 64, "side of a picture in pixels", 8, 2048)
_SETS = flags.DEFINE_integer("sets", 6, "sets of four orthogonal views an object", 1, 1000)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the cameras and proportions", 0, command_line.MOST)
_STRETCH = flags.DEFINE_float("stretch", 0.0, "change of proportions, as a logarithm", 0.0, 2.0)
_WARP = flags.DEFINE_float("warp", 0.0, "the same for six pieces of each axis", 0.0, 2.0)
_WORKERS = flags.DEFINE_integer("workers", 0, "processes; 0 is one a core", 0, 1024)
_UP = flags.DEFINE_enum("up", "y", ["x", "y", "z"], "axis of the mesh files that points up")
_ONLY = flags.DEFINE_list("only", None, "names of the objects to render, with commas; default all")


def _make_machine(resolution: int) -> rasterizer.Rasterizer:
    os.environ["LP_NUM_THREADS"] = "1"  # the processes share the cores already
    return rasterizer.Rasterizer(resolution)


def _work(
    machine: rasterizer.Rasterizer, asset: asset_sources.Asset, out: pathlib.Path, how: tuple
) -> str | None:
    """Renders one object to its file; returns why it was skipped, or None."""
    try:
        record: dict[str, Any] = dict(render_object(asset, machine, *how))
    except meshes.BadMesh as e:
        return str(e)
    except MemoryError:
        raise
    except Exception as e:  # a fault of a reader costs one object, not the run
        return shorten(f"a fault while it was read or drawn: {type(e).__name__}: {e}", 500)
    icon = asset_sources.icon_bytes(asset)
    if icon:
        with atomic_path(out / "icons" / f"{asset.name}.png") as path:
            path.write_bytes(icon)
    with atomic_path(out / "objects" / f"{asset.name}.npz") as path:
        np.savez_compressed(path, **record)
    return None


def limits(resolution: int, views: int) -> tuple[float, int]:
    """Seconds and bytes that one object may take: 60 s and 3 GiB, and what its pictures need."""
    pixels = (resolution * rasterizer.SUPERSAMPLING) ** 2
    return 60.0 + 1e-6 * views * pixels, (3 << 30) + 40 * pixels


def _check_settings(out: pathlib.Path, settings: dict):
    """A folder holds one data set: refuses to mix resolutions, sets, seeds or proportions."""

    def refusal(found: list[Difference]) -> str:
        key, was, now = found[0]
        return (
            f"{out} was rendered with --{key} {was}, not {now}; give the same settings to go "
            "on with it, or another --out"
        )

    ensure_same_folder(out / "settings.json", settings, refusal)


def render_all(
    assets: list[asset_sources.Asset],
    out: pathlib.Path,
    resolution: int = 64,
    sets: int = 6,
    seed: int = 0,
    workers: int = 1,
    stretch: float = 0.0,
    warp: float = 0.0,
    up: str = "y",
) -> dict[str, str]:
    """Renders what is not there yet. Returns {name: reason} of the objects left out.

    Raises:
      UserError: no EGL context, or `out` holds a data set made with other settings.
    """
    for folder in ("objects", "icons"):
        make_folder(out / folder)
    settings = dict(resolution=resolution, sets=sets, seed=seed, stretch=stretch, warp=warp, up=up)
    _check_settings(out, settings)
    skipped = {a.name: reason for a in assets if (reason := asset_sources.unwanted(a))}
    todo = [a for a in assets if a.name not in skipped]
    todo = [a for a in todo if not (out / "objects" / f"{a.name}.npz").exists()]
    start, done = time.time(), 0
    print(f"{len(assets)} objects, {len(todo)} to render, {len(skipped)} left out", flush=True)
    if todo:
        rasterizer.Rasterizer(resolution).close()  # fail here, in one sentence, not in a worker
        seconds, memory = limits(resolution, SET * sets)
        results = child_processes.run_each(
            todo,
            functools.partial(_make_machine, resolution),
            functools.partial(_work, out=out, how=(seed, sets, stretch, warp)),
            workers=workers,
            seconds=seconds,
            memory=memory,
        )
        for asset, result in results:
            done += 1
            if result is not None:
                lost = isinstance(result, child_processes.Lost)
                skipped[asset.name] = result.reason if lost else result
            if done % 20 == 0 or done == len(todo):
                spent = time.time() - start
                eta = spent / done * (len(todo) - done)
                print(f"{done}/{len(todo)}  {spent:.0f} s spent  ETA {eta:.0f} s", flush=True)
    for folder in ("objects", "icons"):  # what processes left that ended while they wrote
        for unfinished in (out / folder).glob(".*"):
            unfinished.unlink()
    remarks = {name: f"rendered, but {lack}" for name, lack in _lacks(out, assets)} | skipped
    with atomic_path(out / "skipped.txt") as path:
        lines = [f"{name}\t{remarks[name]}\n" for name in sorted(remarks)]
        path.write_text("".join(lines), encoding="utf-8")
    return skipped


def _lacks(out: pathlib.Path, assets: list[asset_sources.Asset]) -> Iterator[tuple[str, str]]:
    """What objects that are rendered lack, by name, as their records say."""
    for asset in assets:
        file = out / "objects" / f"{asset.name}.npz"
        if not file.exists():
            continue
        with contextlib.suppress(OSError, KeyError, ValueError, zipfile.BadZipFile):
            with np.load(file) as record:
                if lack := str(record["lacks"]):
                    yield asset.name, shorten(lack, 500)


def write_credits(out: pathlib.Path):
    """Lists every object of `out` with its maker and licence in CREDITS.md."""
    lines = [
        "# Credits\n\nThe pictures here are renders of these objects.\n\n",
        "| object | title | creator | licence | source |\n| --- | --- | --- | --- | --- |\n",
    ]
    for file in sorted((out / "objects").glob("*.npz")):
        with np.load(file) as record:
            keys = ("name", "title", "creator", "license", "source")
            cells = [str(record[key]).replace("|", "/") for key in keys]
        lines.append("| " + " | ".join(cells) + " |\n")
    with atomic_path(out / "CREDITS.md") as path:
        path.write_text("".join(lines), encoding="utf-8")


def choose(assets: list[asset_sources.Asset], names: list[str] | None) -> list[asset_sources.Asset]:
    """The assets of these names; all if None.

    Raises:
      UserError: a name that is not there.
    """
    if names is None:
        return assets
    by_name = {a.name: a for a in assets}
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, 1)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise UserError(f"--only {name}: no object of that name in --assets{hint}")
    return [by_name[name] for name in names]


def render_dataset(
    assets: Sequence[str],
    out: str | pathlib.Path,
    *,
    only: Sequence[str] | None = None,
    resolution: int = 64,
    sets: int = 6,
    seed: int = 0,
    workers: int = 0,
    stretch: float = 0.0,
    warp: float = 0.0,
    up: str = "y",
) -> dict[str, int]:
    """Makes a multi-view data set from meshes; the same call goes on where it was stopped.

    Args:
      assets: folders of meshes, mesh files, .sh3f catalogues, or 'procedural:N'.
      out: folder of the data set, for `data.multiview.open_dataset`.
      only: names of the objects to render; all if None.
      resolution: side of a picture in pixels.
      sets: of four orthogonal views, for each object.
      seed: of the cameras and proportions.
      workers: processes; 0 is one a core.
      stretch, warp: change of proportions, as logarithms (the module's docstring).
      up: axis of the mesh files that points up: x, y or z; catalogues say it themselves.

    Returns:
      Objects by split, and under 'left out' how many are not in it.

    Raises:
      UserError: no such assets, nothing that can be rendered, no EGL context, or a folder with a
        data set of other settings.
    """
    out = pathlib.Path(out)
    chosen = choose(
        asset_sources.find_assets(list(assets), up), None if only is None else list(only)
    )
    workers = workers or os.cpu_count() or 1
    skipped = render_all(chosen, out, resolution, sets, seed, workers, stretch, warp, up)
    multiview.prepare(out, out)
    write_credits(out)
    counts = {}
    for split in ("train", "validation", "test"):
        with contextlib.suppress(UserError):
            counts[split] = len(multiview.open_dataset(out, split))
    return counts | {"left out": len(skipped)}


def main(argv):
    """Renders and says how many objects each split has."""
    del argv
    start = time.time()
    counts = render_dataset(
        _ASSETS.value, _OUT.value, only=_ONLY.value, resolution=_RESOLUTION.value,
        sets=_SETS.value, seed=_SEED.value, workers=_WORKERS.value, stretch=_STRETCH.value,
        warp=_WARP.value, up=_UP.value,
    )  # fmt: skip
    left_out = counts.pop("left out")
    out = pathlib.Path(_OUT.value)
    folder = multiview.find_dataset(str(out))
    print(f"{', '.join(f'{s} {n}' for s, n in counts.items())} objects in {folder}")
    print(f"left out {left_out}, see {out / 'skipped.txt'}; {time.time() - start:.0f} s in all")


if __name__ == "__main__":
    command_line.run(main)
