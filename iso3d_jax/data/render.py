"""Makes a multi-view data set from meshes.

    python -m iso3d_jax.data.render --assets /usr/share/sweethome3d/furniture --out DIR

Each object is rendered from `--sets` sets of four orthogonal cameras. A set has one elevation in
[0, 30] degrees, one field of view in [15, 60] degrees and one distance s / tan(fov / 2) with s in
[1, 1.15], or what `--cameras` names; its azimuths are a random base + 0, 90, 180, 270 degrees, or
as many even steps as `--views_per_set` says.
Objects sit in the unit sphere, Z-up, with their front at azimuth 0. With `--stretch S` each is
first made longer or shorter along its three axes, by factors between exp(-S) and exp(S): further
seeds of the same meshes are then further objects. `--warp W` does the same to each of six pieces of
every axis.

`--layers depth,normals,albedo` are kept of each view, too (`data/layers.py`). `--light seeded`
gives each object a light of its own (`data/lights.py`), and `--background` says before what colour
views are to be shown; records carry both. `--engine blender` renders with Blender's path tracer
instead of the rasterizer, from the same cameras (`data/blender.py`), lit by `--hdri` pictures if
given.

An object's cameras and proportions depend on --seed and its name alone, so neither the order nor
--workers changes the result, and a second run goes on where the first one stopped.
`DIR/multiview` is the data set for `iso3d_jax.data.multiview.open_dataset(DIR, split)`,
`DIR/manifests` say what became of each object, `DIR/icons/NAME.png` are the catalogue's own
pictures, `DIR/CREDITS.md` says who made what under which licence, and `DIR/skipped.txt` what was
left out and why, and what others lack that were rendered: a texture or material that is not there.
Meshes stand with their y axis up, as glTF says; `--up z` turns those that were made otherwise.
An object that takes a minute or 3 GiB, or ends its worker process, is left out for that reason.
What was left out once stays so until `--retry_refused` asks for it again. `--filters` names what
leaves an object out (`data/quality.py`), `--licenses` the licences of those to take, `--uids` a
list of them, and `--metadata` what Objaverse knows of them: licence, creator, category.

The work is in shards of about a thousand objects, told by a hash of their names. `--shard 3/100`
renders the fourth of a hundred and no more: on other machines the others, all with one DIR, which
may be in a bucket (gs://, s3://). `python -m iso3d_jax.data.join --data DIR` then makes the data
set of them, the same, bit for bit, as one command does without --shard. launch/data_slurm.sh and
data_job.sh do so as an array of SLURM and as an indexed job of Kubernetes; `--beam OPTIONS` as a
pipeline of Apache Beam, on the runner that its options name.
"""

import base64
import collections
import contextlib
import dataclasses
import difflib
import functools
import json
import os
import pkgutil
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from PIL import ImageColor

from iso3d_jax.commands import command_line
from iso3d_jax.core import child_processes
from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.files import Difference, ensure_same_run
from iso3d_jax.core.json_files import parse_json
from iso3d_jax.core.progress import Progress
from iso3d_jax.data import (
    asset_sources,
    blender,
    camera_ranges,
    lights,
    meshes,
    object_lists,
    pipelines,
    places,
    quality,
    rasterizer,
)
from iso3d_jax.data.camera_ranges import find_range
from iso3d_jax.data.layers import LAYERS, check_layers
from iso3d_jax.data.multiview import joining, records, shards, strips
from iso3d_jax.data.names import hash_name
from iso3d_jax.data.orthogonal_sets import SET

flags = command_line.flags_for(__name__)

LARGEST_ICON = 1 << 20  # bytes of a catalogue's picture that is kept
# What --stretch and --warp ask for, imported only then: `change(parts, name, seed, stretch, warp)`.
PROPORTIONS = "iso3d_jax.tiny.proportions:change"


ENGINES = ("rasterizer", "blender")
RANDOM = "random"  # a background


@dataclasses.dataclass(frozen=True)
class How:
    """Settings that all objects of a data set share, and that its folder notes.

    Attributes:
      resolution: side of a picture in pixels.
      sets: of `views_per_set` views, for each object.
      seed: of the cameras and proportions.
      stretch, warp: change of proportions, as logarithms (the module's docstring).
      up: axis of the mesh files that points up: x, y or z; catalogues say it themselves.
      filters: names of what leaves an object out, see `data/quality.py`.
      cameras: the range that they are drawn from, a name of `camera_ranges.RANGES`.
      views_per_set: at even steps around the object; training reads sets of four.
      layers: what else is kept of each view, names of `layers.LAYERS`.
      light: the same 'even' light on all, or 'seeded': each object's own.
      background: a colour that records carry, or 'random': each object's own; none if empty.
      engine: 'rasterizer' or 'blender'.
      samples: of Blender, rays a pixel.
      hdri: pictures of light from all around, of which each object is given one; for Blender.
    """

    resolution: int = 64
    sets: int = 6
    seed: int = 0
    stretch: float = 0.0
    warp: float = 0.0
    up: str = "y"
    filters: Sequence[str] = quality.DEFAULT
    cameras: str = camera_ranges.DEFAULT
    views_per_set: int = SET
    layers: Sequence[str] = ()
    light: str = "even"
    background: str = ""
    engine: str = "rasterizer"
    samples: int = blender.SAMPLES
    hdri: Sequence[str] = ()

    def checked(self) -> "How":
        """The same with names in their order and full paths.

        Raises:
          UserError: a name that there is not, or settings that do not go together.
        """
        if self.hdri and self.engine != "blender":
            raise UserError("--hdri is light for --engine blender; leave it out, or add that")
        _check_one_of("light", self.light, lights.LIGHTS)
        _check_one_of("engine", self.engine, ENGINES)
        check_background(self.background)
        return dataclasses.replace(
            self,
            filters=quality.check_filters(self.filters),
            layers=check_layers(self.layers),
            hdri=blender.check_pictures(self.hdri),
        )


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Which of the objects that are found are rendered.

    Attributes:
      only: names; all if None.
      uids: file with the uids of the objects to take, see `data/object_lists.py`; all if None.
      metadata: file or folder of what is known of objects by uid.
      licenses: SPDX names of the licences to take; all if None.
    """

    only: Sequence[str] | None = None
    uids: str | None = None
    metadata: str | None = None
    licenses: Sequence[str] | None = None


@runtime_checkable
class Renderer(Protocol):
    """What an object is rendered with: a `Rasterizer`, or `Blender`."""

    def load(self, parts: list[meshes.Part], light: lights.Light = lights.EVEN) -> None:
        """Takes the parts of one object and the light on them, in place of the last ones."""
        ...

    def render(
        self, c2w: Float[np.ndarray, "4 4"], fov_deg: float
    ) -> UInt8[np.ndarray, "res res 4"]:
        """One view of them, straight-alpha RGBA."""
        ...

    def render_layer(self, layer: str, c2w: Float[np.ndarray, "4 4"], fov_deg: float) -> np.ndarray:
        """A layer of a view; see `Rasterizer.render_layer`."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


def sample_cameras(
    name: str,
    seed: int,
    sets: int,
    cameras: str = camera_ranges.DEFAULT,
    views_per_set: int = SET,
) -> dict[str, np.ndarray]:
    """The cameras of an object: a pure function of its name and the seed.

    Args:
      cameras: a name of `camera_ranges.RANGES`.
      views_per_set: n, at azimuths 360 / n degrees apart.

    Returns:
      azimuth_deg, elevation_deg, fov_deg, distance float32 [n * sets], set_index int32 [n * sets],
      c2w float32 [n * sets, 4, 4].
    """
    # It imports JAX, which wrong flags need not wait for.
    from iso3d_jax.geometry.cameras import camera_to_world

    rng, seen_from = np.random.default_rng([seed, hash_name(name)]), find_range(cameras)
    columns = []
    for _ in range(sets):
        base = rng.uniform(0, 360)
        elevation, fov, distance = seen_from.sample(rng)
        for k in range(views_per_set):
            columns.append(((base + 360 / views_per_set * k) % 360, elevation, fov, distance))
    azimuth, elevation, fov, distance = np.array(columns, np.float32).T
    return {
        "azimuth_deg": azimuth,
        "elevation_deg": elevation,
        "fov_deg": fov,
        "distance": distance,
        "set_index": np.repeat(np.arange(sets, dtype=np.int32), views_per_set),
        "c2w": np.asarray(camera_to_world(elevation, azimuth, distance), np.float32),
    }


def choose_light(name: str, how: How) -> lights.Light:
    """The light on an object: a pure function of its name and the settings."""
    light = lights.sample_light(name, how.seed) if how.light == "seeded" else lights.EVEN
    if not how.hdri:
        return light
    draw = np.random.default_rng([how.seed, hash_name(name), 2])
    return light._replace(picture=how.hdri[int(draw.integers(len(how.hdri)))])


def choose_background(name: str, how: How) -> Float[np.ndarray, " 3"]:
    """The sRGB colour in [0, 1] before which an object's views are to be shown."""
    if how.background == RANDOM:
        draw = np.random.default_rng([how.seed, hash_name(name), 3])
        return draw.uniform(size=3).astype(np.float32)
    return np.array(ImageColor.getrgb(how.background)[:3], np.float32) / 255


def check_background(text: str) -> str:
    """A colour as `--background` names it.

    Raises:
      UserError: it is none.
    """
    if text and text != RANDOM:
        try:
            ImageColor.getrgb(text)
        except ValueError:
            raise UserError(
                f"--background {shorten(text, 40)}: not a colour; give a name as white, #rrggbb, "
                f"or {RANDOM}"
            ) from None
    return text


def render_object(asset: asset_sources.Asset, machine: Renderer, how: How) -> dict[str, Any]:
    """One record of the data set: cameras, `images` uint8 [N, res, res, 4] and the names, and of
    layers, `light` and `background` what the settings ask for; `lacks` says what of the object
    could not be drawn, `quality` is a dict of what was measured.

    Raises:
      meshes.BadMesh: the object cannot be read, or a filter leaves it out.
    """
    notes: list[str] = []
    parts = asset_sources.load_asset(asset, notes.append)
    refusal = asset_sources.shape_refusal(parts)
    if refusal and "shape" in how.filters:
        raise quality.LowQuality("shape", refusal)
    if how.stretch or how.warp:
        change = pkgutil.resolve_name(PROPORTIONS)
        parts = change(parts, asset.name, how.seed, how.stretch, how.warp)
    record: dict[str, Any] = dict(
        sample_cameras(asset.name, how.seed, how.sets, how.cameras, how.views_per_set)
    )
    light = choose_light(asset.name, how)
    machine.load(parts, light)
    views = list(zip(record["c2w"], record["fov_deg"], strict=True))
    record["images"] = np.stack([machine.render(*view) for view in views])
    measures = quality.measure(record["images"])
    quality.judge(measures, notes, how.filters)
    for layer in how.layers:
        record[layer] = np.stack([machine.render_layer(layer, *view) for view in views])
    if how.light != "even":
        record["light"] = light.numbers()
    if how.background:
        record["background"] = choose_background(asset.name, how)
    if "duplicate" in how.filters:
        measures["hash"] = quality.hash_picture(machine.render(*_fixed_view()))
    texts: dict[str, Any] = _texts(asset) | {"lacks": "; ".join(dict.fromkeys(notes))}
    texts["quality"] = measures
    return record | {key: np.array(value) for key, value in texts.items()}


@functools.lru_cache(1)
def _fixed_view() -> tuple[np.ndarray, float]:
    """A camera that is every object's, for their likeness: two sides and the top are seen."""
    from iso3d_jax.geometry import cameras

    distance = 1.05 / np.tan(np.radians(15.0))
    return np.asarray(cameras.camera_to_world(25.0, 35.0, distance), np.float32), 30.0


def _texts(asset: asset_sources.Asset) -> dict[str, str]:
    """What is known of an object before it is read."""
    return {
        "name": asset.name,
        "title": asset.title,
        "category": asset.category,
        "creator": asset.creator,
        "license": asset.license,
        "source": asset.source,
        "split": asset_sources.assign_split(asset.design or asset.name),
    }


_ASSETS = flags.DEFINE_list(
    "assets", None, "folders of meshes, mesh files, .sh3f catalogues, on a disk or in a bucket, or "
    "procedural:N; with commas", required=True,
)  # fmt: skip
_OUT = flags.DEFINE_string("out", None, "folder of the data set", required=True)
_RESOLUTION = flags.DEFINE_integer("resolution", 64, "side of a picture in pixels", 8, 2048)
_SETS = flags.DEFINE_integer("sets", 6, "sets of views an object", 1, 1000)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the cameras and proportions", 0, command_line.MOST)
_STRETCH = flags.DEFINE_float("stretch", 0.0, "change of proportions, as a logarithm", 0.0, 2.0)
_WARP = flags.DEFINE_float("warp", 0.0, "the same for six pieces of each axis", 0.0, 2.0)
_WORKERS = flags.DEFINE_integer("workers", 0, "processes; 0 is one a core", 0, 1024)
_UP = flags.DEFINE_enum("up", "y", ["x", "y", "z"], "axis of the mesh files that points up")
_SHARD = flags.DEFINE_string(
    "shard", None, "render this shard alone, as in 3/100; data.join makes the data set of all"
)
_SHARDS = flags.DEFINE_integer(
    "shards", 0, "how many without --shard; 0 is one a thousand objects", 0, shards.MOST_SHARDS
)
_RETRY = flags.DEFINE_boolean("retry_refused", False, "render again what was left out before")
_FILTERS = flags.DEFINE_list(
    "filters", list(quality.DEFAULT), "what leaves objects out: " + ", ".join(quality.FILTERS)
)
_LICENSES = flags.DEFINE_list(
    "licenses", None, "SPDX names of the licences to take, as in CC0-1.0,CC-BY-4.0; default all"
)
_UIDS = flags.DEFINE_string("uids", None, "list of the objects to render, such as Objaverse's")
_METADATA = flags.DEFINE_string(
    "metadata", None, "JSON with titles, categories, creators and licences by uid, or its folder"
)
_CAMERAS = flags.DEFINE_enum(
    "cameras",
    camera_ranges.DEFAULT,
    list(camera_ranges.RANGES),
    "range that cameras are drawn from (data/camera_ranges.py): all is seen, MVDream's, SDS's",
)
_VIEWS_PER_SET = flags.DEFINE_integer(
    "views_per_set", SET, "views of a set, at even steps around; training reads sets of 4", 1, 360
)
_LAYERS = flags.DEFINE_list("layers", [], "what else is kept of views: " + ", ".join(LAYERS))
_LIGHT = flags.DEFINE_enum(
    "light", "even", list(lights.LIGHTS), "light: the same on all objects, or each its own"
)
_BACKGROUND = flags.DEFINE_string(
    "background", "", "colour that records carry, as white or #808080, or random; default none"
)
_ENGINE = flags.DEFINE_enum("engine", ENGINES[0], list(ENGINES), "what renders")
_SAMPLES = flags.DEFINE_integer("samples", blender.SAMPLES, "Blender's rays a pixel", 1, 65536)
_HDRI = flags.DEFINE_list("hdri", [], "pictures of light from all around, for --engine blender")
_BLENDER_PYTHON = flags.DEFINE_string(
    "blender_python", "", "the Python that has the package bpy; default this one"
)
_BEAM = flags.DEFINE_string(
    "beam", None, "render as an Apache Beam pipeline with these options, as in --runner=FlinkRunner"
)
_ONLY = flags.DEFINE_list("only", None, "names of the objects to render, with commas; default all")


def _open_machine(how: How, blender_python: str) -> Renderer:
    if how.engine == "blender":
        return blender.Blender(
            how.resolution, how.samples, blender_python,
            seconds=60.0 + blender.seconds_for_view(how.resolution, how.samples),
            memory=blender.memory_for(how.resolution),
        )  # fmt: skip
    return rasterizer.Rasterizer(how.resolution)


def _make_machine(how: How, blender_python: str) -> Renderer:
    os.environ["LP_NUM_THREADS"] = "1"  # the processes share the cores already
    return _open_machine(how, blender_python)


class Made(NamedTuple):
    """What became of an object: its entry in the manifest, and its record if it was rendered."""

    entry: dict[str, Any]
    record: dict[str, Any] | None = None


def _refused(asset: asset_sources.Asset, reason: str, **more: Any) -> Made:
    return Made(_texts(asset) | {"status": shards.REFUSED, "reason": shorten(reason, 500)} | more)


def _refuse_unread(asset: asset_sources.Asset, licenses: Sequence[str] | None) -> Made | None:
    """Leaves out an object by what is known of it before it is read."""
    if reason := asset_sources.unwanted(asset):
        return _refused(asset, reason)
    if licenses is not None and asset.license.lower() not in {name.lower() for name in licenses}:
        reason = f"its licence is {asset.license}, which is not one of --licenses"
        return _refused(asset, reason, filter="license")
    return None


def _work(machine: Renderer, asset: asset_sources.Asset, how: How) -> Made:
    """Renders one object, or says why it is left out."""
    try:
        record = render_object(asset, machine, how)
    except quality.LowQuality as e:
        return _refused(asset, str(e), filter=e.filter, quality=e.measures)
    except meshes.BadMesh as e:
        return _refused(asset, str(e))
    except MemoryError:
        raise
    except Exception as e:  # a fault of a reader costs one object, not the run
        return _refused(asset, f"a fault while it was read or drawn: {type(e).__name__}: {e}")
    lacks = shorten(str(record.pop("lacks")), 500)
    entry: dict[str, Any] = _texts(asset) | {"status": shards.RENDERED, "lacks": lacks}
    entry["quality"] = record.pop("quality").item()
    icon = asset_sources.icon_bytes(asset)
    if icon and len(icon) <= LARGEST_ICON:
        entry["icon"] = base64.b64encode(icon).decode()
    record["strip"] = strips.encode_views(record.pop("images"))
    for layer in how.layers:
        record[layer] = records.encode_layer(layer, record[layer], record["distance"])
    return Made(entry, record)


def limits(how: How) -> tuple[float, int]:
    """Seconds and bytes that one object may take: 60 s and 3 GiB, and what its pictures need."""
    views = how.sets * how.views_per_set
    pixels = (how.resolution * rasterizer.SUPERSAMPLING) ** 2
    seconds = 60.0 + 1e-6 * (1 + len(how.layers)) * views * pixels
    if how.engine == "blender":
        seconds += views * blender.seconds_for_view(how.resolution, how.samples)
    return seconds, (3 << 30) + 40 * pixels


def _noted_settings(out: epath.Path) -> dict[str, Any] | None:
    """The settings of a folder that something was rendered into."""
    file = out / "settings.json"
    if not file.exists():
        return None
    try:
        noted = parse_json(file.read_bytes())
    except ValueError as e:
        raise UserError(f"{file} is damaged: {e}; give another --out") from None
    if not isinstance(noted, dict):
        raise UserError(f"{file} is damaged: it is no JSON object; give another --out")
    if "shards" not in noted:
        raise UserError(f"{out} is of an earlier version, or not rendered; give another --out")
    return noted


def _check_settings(
    out: epath.Path, noted: dict[str, Any] | None, settings: dict[str, Any]
) -> None:
    """A folder holds one data set: refuses to mix resolutions, sets, seeds or proportions."""

    def refusal(found: list[Difference]) -> str:
        key, was, now = found[0]
        return (
            f"{out} was rendered with --{key} {was}, not {now}; give the same settings to go "
            "on with it, or another --out"
        )

    if noted is None:
        places.write_text(places.make(out) / "settings.json", json.dumps(settings, indent=2))
        return
    # What was no setting yet was as it is by default now.
    before = json.loads(json.dumps(dataclasses.asdict(How()))) | noted
    ensure_same_run(before, json.loads(json.dumps(settings)), refusal)


def render_shards(
    assets: Sequence[asset_sources.Asset],
    out: epath.Path,
    wanted: Sequence[shards.Shard],
    how: How,
    workers: int = 1,
    retry_refused: bool = False,
    licenses: Sequence[str] | None = None,
    blender_python: str = "",
) -> None:
    """Renders what is not there yet of some shards of a data set.

    Args:
      assets: objects; those of other shards are passed over.
      out: folder of the data set.
      wanted: shards of one number.
      how: settings; not compared with the folder's.
      workers: processes.
      retry_refused: render again what was left out before.
      licenses: those of objects to take; all if None.
      blender_python: the interpreter that has bpy; this one if empty.

    Raises:
      UserError: no EGL context or no Blender, or another process is at one of the shards.
    """
    of_shard: dict[int, list[asset_sources.Asset]] = collections.defaultdict(list)
    indices = {shard.index for shard in wanted}
    for asset in assets:
        index = hash_name(asset.name) % wanted[0].count
        if index in indices:
            of_shard[index].append(asset)
    total = sum(map(len, of_shard.values()))
    progress = Progress(total, "render", unit="objects")
    print(f"{total} objects in {len(wanted)} of {wanted[0].count} shards", flush=True)
    done = 0  # objects, drawn or found
    open_shards: dict[int, tuple[shards.ShardWriter, set[str]]] = {}  # and what they wait for

    with contextlib.ExitStack() as stack:

        def tasks() -> Iterator[asset_sources.Asset]:
            nonlocal done
            looked = False
            for shard in wanted:
                mine = of_shard[shard.index]
                names = [asset.name for asset in mine]
                retry = names if retry_refused else []
                before = shards.read_done(out, shard)
                if before is not None and all(
                    name in before and not (retry and before[name] == shards.REFUSED)
                    for name in names
                ):
                    done += len(mine)
                    continue
                writer = stack.enter_context(shards.ShardWriter(out, shard, retry=retry))
                todo = []
                for asset in mine:
                    if asset.name not in writer.entries:
                        refusal = _refuse_unread(asset, licenses)
                        if refusal is None:
                            todo.append(asset)
                            continue
                        writer.add(refusal.entry, None)
                    done += 1
                if not todo:
                    writer.finish()
                    continue
                if not looked:  # fail here, in one sentence, not in a worker
                    _open_machine(how, blender_python).close()
                    looked = True
                open_shards[shard.index] = writer, {asset.name for asset in todo}
                yield from todo

        seconds, memory = limits(how)
        more = records.options(dataclasses.asdict(how))
        results = child_processes.run_each(
            tasks(),
            functools.partial(_make_machine, how, blender_python),
            functools.partial(_work, how=how),
            workers=workers,
            seconds=seconds,
            memory=memory,
        )
        for asset, result in results:
            if isinstance(result, child_processes.Lost):
                result = _refused(asset, result.reason)
            index = hash_name(asset.name) % wanted[0].count
            writer, waiting = open_shards[index]
            record = None if result.record is None else records.serialize(result.record, more)
            writer.add(result.entry, record)
            waiting.remove(asset.name)
            if not waiting:
                del open_shards[index]
                writer.finish()
            done += 1
            progress.update(done)
    if progress.worth_an_end():
        progress.close()


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
    return [by_name[name] for name in dict.fromkeys(names)]  # what is named twice is drawn once


def _check_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"--{name} {shorten(value, 40)}: choose from {', '.join(known)}")


def _look_up(
    assets: list[asset_sources.Asset], uids: str | None, metadata: str | None
) -> list[asset_sources.Asset]:
    """The objects of a list, with what is known of them."""
    if uids is not None:
        listed = object_lists.read_uids(uids)
        assets = [asset for asset in assets if asset.path.stem in listed]
        print(f"{len(assets)} of the {len(listed)} objects of {uids} are here", flush=True)
    if metadata is None:
        return assets
    known = object_lists.read_metadata(metadata, {asset.path.stem for asset in assets})

    def with_known(asset: asset_sources.Asset) -> asset_sources.Asset:
        about = known.get(asset.path.stem, object_lists.Known())
        return dataclasses.replace(asset, **{k: v for k, v in about._asdict().items() if v})

    return [with_known(asset) for asset in assets]


def render_dataset(
    assets: Sequence[str],
    out: str | os.PathLike,
    how: How | None = None,
    chosen: Chosen | None = None,
    *,
    workers: int = 0,
    shard: str | None = None,
    count: int = 0,
    retry_refused: bool = False,
    beam: str | None = None,
    blender_python: str = "",
) -> dict[str, int]:
    """Makes a multi-view data set from meshes; the same call goes on where it was stopped.

    Args:
      assets: folders of meshes, mesh files, .sh3f catalogues, or 'procedural:N'.
      out: folder of the data set, for `data.multiview.open_dataset`; may be in a bucket.
      how: what the data set is to be like; `How()` if None.
      chosen: which objects; all if None.
      workers: processes; 0 is one a core.
      shard: as in '3/100', the one to render; all, and join them, if None.
      count: of shards where all are rendered; 0 is one a thousand objects.
      retry_refused: render again what was left out before.
      beam: options of an Apache Beam pipeline that renders the shards; in processes of this machine
        if None. Its workers must see `assets` and `out`, and have this package and EGL.
      blender_python: an interpreter that has the package bpy; this one if empty.

    Returns:
      Objects by split, and under 'left out' how many are not in it, of the data set or the shard.

    Raises:
      UserError: no such assets, nothing that can be rendered, no EGL context or no Blender, or a
        folder with a data set of other settings.
    """
    how, chosen = how or How(), chosen or Chosen()
    root = places.place(out)
    one = None if shard is None else shards.Shard.parse(shard)
    keep = one.holds if one is not None and chosen.only is None else lambda name: True
    found = choose(
        asset_sources.find_assets(list(assets), how.up, keep),
        None if chosen.only is None else list(chosen.only),
    )
    noted = _noted_settings(root)
    if one is not None:
        count = one.count
    count = count or (noted or {}).get("shards") or shards.choose_count(len(found))
    found = _look_up(found, chosen.uids, chosen.metadata)
    how = how.checked()
    _check_settings(root, noted, dataclasses.asdict(how) | {"shards": count})
    wanted = [shards.Shard(k, count) for k in range(count)] if one is None else [one]
    if beam is None:
        cores = workers or os.cpu_count() or 1
        render_shards(
            found, root, wanted, how, cores, retry_refused, chosen.licenses, blender_python
        )
    else:
        # In plain values: of a command, these classes are of a module that workers do not have.
        plain = {"how": dataclasses.asdict(how), "chosen": dataclasses.asdict(chosen)}
        plain |= {"assets": list(assets), "out": os.fspath(out), "workers": workers}
        plain |= {"retry_refused": retry_refused, "blender_python": blender_python}
        pipelines.run(beam, wanted, plain)
    if one is None:
        return joining.join_shards(root)
    counts = collections.Counter()
    for entry in shards.read_manifest(shards.manifest_file(root, one)):
        counts["left out" if entry["status"] == shards.REFUSED else entry["split"]] += 1
    return {"left out": 0} | counts


def main(argv):
    """Renders and says how many objects each split has."""
    del argv
    start = time.time()
    how = How(
        resolution=_RESOLUTION.value, sets=_SETS.value, seed=_SEED.value, stretch=_STRETCH.value,
        warp=_WARP.value, up=_UP.value, filters=_FILTERS.value, cameras=_CAMERAS.value,
        views_per_set=_VIEWS_PER_SET.value, layers=_LAYERS.value, light=_LIGHT.value,
        background=_BACKGROUND.value, engine=_ENGINE.value, samples=_SAMPLES.value,
        hdri=_HDRI.value,
    )  # fmt: skip
    chosen = Chosen(_ONLY.value, _UIDS.value, _METADATA.value, _LICENSES.value)
    counts = render_dataset(
        _ASSETS.value, _OUT.value, how, chosen, workers=_WORKERS.value, shard=_SHARD.value,
        count=_SHARDS.value, retry_refused=_RETRY.value, beam=_BEAM.value,
        blender_python=_BLENDER_PYTHON.value,
    )  # fmt: skip
    left_out = counts.pop("left out")
    where = "" if _SHARD.value is None else f"shard {_SHARD.value} of "
    print(f"{', '.join(f'{s} {n}' for s, n in counts.items())} objects in {where}{_OUT.value}")
    said = "skipped.txt in it" if _SHARD.value is None else "its manifest"
    print(f"left out {left_out}, see {said}; {time.time() - start:.0f} s in all")


if __name__ == "__main__":
    command_line.run(main)
