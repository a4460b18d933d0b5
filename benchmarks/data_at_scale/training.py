"""Encoding and loading of large data sets: memory, time of the processor, starts, kills.

    python -m benchmarks.data_at_scale.training --result FILE
    python -m benchmarks.data_at_scale.training --only start,raw

Objects are the shipped ones made larger, 24 views of 256 x 256, and latents of the released size
where networks are not what is measured. Rates are of processor time (`time.process_time`), which
other jobs on the machine change less than the clock.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks.measuring import machine, report
from iso3d_jax.core.progress import Progress
from iso3d_jax.data import multiview, places
from iso3d_jax.data.encode import Encoder, encode_shards
from iso3d_jax.data.encoded import EncodedSet
from iso3d_jax.data.encoded_shards import ShardWriter, finish, latents_file
from iso3d_jax.data.multiview import joining, records, shards, strips
from iso3d_jax.data.picture_table import PictureTable
from iso3d_jax.data.prepared_views import prepare_views
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks import batches

ROOT = Path(__file__).parents[2]
VIEWS, SIDE = 24, 256
LATENT, WIDTH = (32, 32, 8), 1024  # of the released size


@jax.tree_util.register_static
class Vae:
    """As large moments as the released autoencoder's, at hardly any cost."""

    def encode(self, x):
        x = x[:, :: x.shape[1] // 32, :: x.shape[1] // 32]
        return jnp.concatenate([x, x[..., :1]], -1), jnp.concatenate([x, x[..., 1:2]], -1)


@jax.tree_util.register_static
class Clip:
    def embed(self, pictures):
        step = pictures.shape[1] // 32
        return pictures[:, ::step, ::step, 0].reshape(len(pictures), WIDTH)


@functools.cache
def large_views(number: int) -> np.ndarray:
    """A shipped object at 256 x 256 with noise of two levels, [24, 256, 256, 4]."""
    from PIL import Image

    source = multiview.open_dataset("samples", "train")
    images = np.stack(
        [
            np.asarray(Image.fromarray(view).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            for view in source[number % len(source)]["images"]
        ]
    )
    noise = np.random.default_rng(number).integers(-2, 3, (*images.shape[:3], 3))
    images[..., :3] = np.clip(images[..., :3].astype(int) + noise, 0, 255)
    images[images[..., 3] == 0] = 0
    return images


class Objects:
    """So many objects, which are made when they are asked for."""

    def __init__(self, count: int, seconds: float, side: int):
        self._count, self._seconds, self._step = count, seconds, SIDE // side

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict:
        time.sleep(self._seconds)
        angles = np.arange(VIEWS, dtype=np.float32) * 15
        images = np.roll(large_views(index % 4), index % 7, 2)
        return {
            "images": images[:, :: self._step, :: self._step],
            "azimuth_deg": angles, "elevation_deg": angles / 20, "name": f"object {index}",
        }  # fmt: skip


def processor_seconds(function, repeats: int = 5) -> float:
    """The least of several calls."""
    best = np.inf
    for _ in range(repeats):
        began = time.process_time()
        function()
        best = min(best, time.process_time() - began)
    return best


def preparation() -> dict:
    """Seconds of host work on the references of an object, all eight variants together."""
    images = large_views(0)
    found = {mode: processor_seconds(lambda m=mode: prepare_views(images, m)) for mode in
             ("framed", "launch", "centred")}  # fmt: skip
    return {"seconds_an_object": found, "views": VIEWS, "side": SIDE, "variants": 8}


def child(*arguments) -> dict:
    """A part in a process of its own; what it printed last, and its peak memory."""
    line = [sys.executable, "-m", "benchmarks.data_at_scale.training", *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    began = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"process_seconds": time.monotonic() - began}


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def encode_some(out: str, count: str, shard: str, variants: str, seconds: str, side: str) -> dict:
    """Encodes objects to latents of the released size with networks that cost nothing."""
    encoder = Encoder(Vae(), Clip(), variants=int(variants), pictures=["launch"])
    began = time.process_time()
    encode_shards(
        Objects(int(count), float(seconds), int(side)),
        out,
        encoder,
        facts={},
        shard_objects=int(shard),
    )
    taken = time.process_time() - began
    return {"peak_gb": peak_gb(), "processor_seconds_an_object": taken / int(count)}


def encode_memory(folder: Path) -> dict:
    """Peak memory of encoding objects, each and its mirror image: 0.9 MB of latents an object.

    The first few hundred fill the allocator's pools; after those it stays.
    """
    return {
        f"{count} objects of {side} pixels": child(
            "encode_some", folder / f"e{count}", count, 16, 1, 0, side
        )
        for side, count in ((SIDE, 32), (64, 320), (64, 1280))
    }


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix != ".npz"
    }


def kills(folder: Path, count: int = 4) -> dict:
    """SIGKILL at random moments of an encoding, against one that was left alone."""
    arguments = ["24", "2", "1", "0.4", str(SIDE)]
    child("encode_some", folder / "whole", *arguments)
    rng, out, kept = random.Random(0), folder / "killed", []
    line = [
        sys.executable,
        "-m",
        "benchmarks.data_at_scale.training",
        "encode_some",
        str(out),
        *arguments,
    ]
    for _ in range(count):
        process = subprocess.Popen(
            line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for text in process.stderr:  # until it works
            if re.match(r"encoding: \d+/", text):
                break
        try:
            process.wait(rng.uniform(0.2, 6.0))
        except subprocess.TimeoutExpired:
            process.kill()
        process.stderr.close()
        process.wait()
        kept.append(len(list(out.glob("objects-*.npz"))))
    child("encode_some", out, *arguments)
    whole, killed = digests(folder / "whole"), digests(out)
    return {
        "kills": count,
        "shards_kept_after_each": kept,
        "shards": 12,
        "same_bytes": whole == killed,
        "left_over_files": sorted(set(killed) - set(whole)),
    }


def fake_encoded(folder: Path, objects: int, latent, width: int, each: int = 1000) -> None:
    """A set of so many objects, every shard of it the same file by another name."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    count = objects // each
    moments = rng.normal(size=(2, VIEWS, *latent)).astype(np.float16)
    embedding = rng.normal(size=(2, VIEWS, width)).astype(np.float16)
    angles = np.arange(VIEWS, dtype=np.float32) * 15
    with ShardWriter(folder, 0, 1) as shard:
        for i in range(each):
            shard.add(f"object {i:04d}", np.stack([angles, angles / 20]), moments, embedding)
    finish(folder, 1, {})
    one = latents_file(folder, 0, 1)
    for k in range(count):
        os.link(one, latents_file(folder, k, count))
    facts = json.loads((folder / "encoded.json").read_text())
    (folder / "encoded.json").write_text(json.dumps(facts | {"shards": [each] * count}))
    cameras, names = (np.load(folder / f"{name}.npy") for name in ("cameras", "names"))
    np.save(folder / "cameras.npy", np.tile(cameras, (count, 1, 1)))
    np.save(folder / "names.npy", np.tile(names, count))
    np.save(folder / "name_ends.npy", np.arange(1, objects + 1) * (len(names) // each))


def fake_pictures(folder: Path, objects: int, each: int = 1000) -> None:
    """A rendered set of so many objects in training and a tenth in validation, likewise."""
    import array_record.python.array_record_module as array_record

    source = multiview.find_dataset("samples")
    folder = folder / "multiview" / source.name
    folder.mkdir(parents=True)
    for name in ("features.json", "metadata.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    stored = next(source.glob("*-train.array_record-*"))
    reader = array_record.ArrayRecordReader(str(stored))
    records = reader.read(list(range(reader.num_records())))
    shard = folder / "shard"
    writer = array_record.ArrayRecordWriter(str(shard), "group_size:1")
    for k in range(each):
        writer.write(records[k % len(records)])
    writer.close()
    info = json.loads((source / "dataset_info.json").read_text())
    template = info["splits"][0]
    info["splits"] = []
    for split, count in (("train", objects // each), ("validation", objects // each // 10)):
        for k in range(count):
            os.link(shard, folder / f"multiview-{split}.array_record-{k:05d}-of-{count:05d}")
        sizes = dict(name=split, shardLengths=[str(each)] * count)
        info["splits"].append(template | sizes | {"numBytes": str(count * shard.stat().st_size)})
    shard.unlink()
    (folder / "dataset_info.json").write_text(json.dumps(info))


def start_training(data: str, encoded: str) -> dict:
    """From a config to the first batch of a run that shows samples."""
    from iso3d_jax.presets import stage1
    from iso3d_jax.training.tasks.registry import make_task

    began = time.monotonic()
    cfg = stage1.get_config("tiny")
    cfg.data, cfg.loader, cfg.sample_every = data, "grain", 1000
    cfg.data_encoded = "" if encoded == "none" else encoded
    cfg.encoding = "online" if encoded == "none" else "once"
    task = make_task(cfg)
    made = time.monotonic() - began
    task.batch(0, np.arange(cfg.batch_size))
    task.held_out_references  # noqa: B018 (what a preview needs)
    return {
        "objects": len(task.batches.table), "seconds_to_the_task": made,
        "seconds_to_the_first_batch": time.monotonic() - began, "peak_gb": peak_gb(),
    }  # fmt: skip


def start(folder: Path) -> dict:
    fake_pictures(folder / "pictures", 800_000)
    fake_encoded(folder / "encoded", 800_000, (8, 8, 16), 512)
    return {
        "pictures": child("start_training", folder / "pictures", "none"),
        "encoded": child("start_training", folder / "pictures", folder / "encoded"),
    }


def loader(table, steps: int, **changes) -> batches.GrainBatches:
    from iso3d_jax.presets import stage2

    cfg = stage2.get_config("full")
    cfg.batch_size, cfg.steps, cfg.reference_dropout, cfg.single_view_share = 32, steps, 0.0, 0.0
    cfg.model.camera_encoding, cfg.model.parameterization, cfg.model.picture = "mvdream", "eps", ""
    cfg.update(changes)
    return batches.GrainBatches(make_spec(StageSpec, cfg), table)


def rate_of_rows(loaded: batches.GrainBatches, rows: int) -> dict:
    """Objects a second of one core, row by row, four views and the reference of each."""
    size = loaded.cfg.batch_size
    began, clock = time.process_time(), time.monotonic()
    for number in range(rows):
        loaded.read_row(*divmod(number, size))
    spent, clock = time.process_time() - began, time.monotonic() - clock
    return {"objects_a_core_second": rows / spent, "objects_a_second_by_the_clock": rows / clock}


def forget(folder: Path) -> None:
    """Takes files out of the kernel's cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def one_strip(views: np.ndarray) -> bytes:
    """Views side by side as one PNG, as records of version 1.0.0 have them."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.concatenate(list(views), axis=1))).save(buffer, "PNG")
    return buffer.getvalue()


LAYOUTS = {
    "strip": one_strip,
    "a PNG a view": functools.partial(strips.encode_views, png=True),
    "a lossless WebP a view": strips.encode_views,
}


def raw(folder: Path, count: int = 20, rounds: int = 5) -> dict:
    """Pictures of 256 x 256 in each layout, by turns; the best round of each counts."""
    angles = np.arange(VIEWS, dtype=np.float32) * 15
    texts = dict.fromkeys(records.TEXTS, "x") | {"split": "train"}
    cameras = dict(azimuth_deg=angles, elevation_deg=angles / 20, fov_deg=angles + 1)
    cameras |= dict(distance=angles + 1, set_index=np.arange(VIEWS, dtype=np.int32) // 4)

    def drawn(encode):
        for k in range(count):
            own = texts | {"name": f"o{k}"}
            record = own | cameras | {"strip": encode(large_views(k))}
            yield own | {"status": shards.RENDERED, "lacks": ""}, records.serialize(record)

    found: dict = {}
    loaders = {}
    for layout, encode in LAYOUTS.items():
        out = folder / layout
        place = places.place(out)
        shards.write_shards(place, 1, drawn(encode))
        places.write_text(place / "settings.json", json.dumps({"resolution": SIDE, "shards": 1}))
        joining.join_shards(place)
        size = sum(p.stat().st_size for p in out.rglob("*array_record*")) / count
        written = processor_seconds(lambda e=encode: [e(large_views(k)) for k in range(4)], 2) / 4
        found[layout] = {"bytes_an_object": size, "seconds_to_write_an_object": written}
        for mode in ("launch", "centred"):
            table = PictureTable(multiview.open_dataset(out, "train"), 4, [mode])
            loaders[layout, mode] = loader(table, 1000)
            rate_of_rows(loaders[layout, mode], 8)
    for _ in range(rounds):
        for (layout, mode), loaded in loaders.items():
            forget(folder / layout)
            rate = rate_of_rows(loaded, 100)
            key = "objects_a_core_second"
            if rate[key] > found[layout].get(mode, {key: 0})[key]:
                found[layout][mode] = rate
    return found


def encoded(folder: Path, objects: int = 600) -> dict:
    """Latents of the released size, cold and then warm, at random over six shards."""
    rng = np.random.default_rng(0)
    out = folder / "latents"
    out.mkdir()
    angles = np.arange(VIEWS, dtype=np.float32) * 15
    pool = rng.normal(size=(8, 2, VIEWS, *LATENT)).astype(np.float16)
    embedding = rng.normal(size=(2, VIEWS, WIDTH)).astype(np.float16)
    for k in range(6):
        with ShardWriter(out, k, 6) as shard:
            for i in range(objects // 6):
                shard.add(f"o{i}", np.stack([angles, angles / 20]), pool[i % 8], embedding)
    finish(out, 6, {})
    found = {}
    for name in ("cold", "warm"):
        if name == "cold":
            forget(out)
        loaded = loader(EncodedSet(out), 1000)
        found[name] = rate_of_rows(loaded, objects)
    return found


def batch_rate(folder: Path) -> dict:
    """Whole batches through the threads, after `encoded`: the order, cameras and stacking too."""
    loaded = loader(EncodedSet(folder / "latents"), 100)
    loaded(0)
    began, clock = time.process_time(), time.monotonic()
    for step in range(1, 21):
        loaded(step)
    spent, clock = time.process_time() - began, time.monotonic() - clock
    rows = 20 * loaded.cfg.batch_size
    return {"objects_a_core_second": rows / spent, "objects_a_second_by_the_clock": rows / clock}


CHILDREN = {"encode_some": encode_some, "start_training": start_training}
PARTS = {
    "preparation": lambda folder: preparation(), "encode_memory": encode_memory, "kills": kills,
    "start": start, "raw": raw, "encoded": encoded, "batches": batch_rate,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--result", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    options = parser.parse_args()
    found = {}
    if options.result and options.result.is_file():
        found = json.loads(options.result.read_text())
    progress = Progress(len(options.only.split(",")), "benchmark")
    with tempfile.TemporaryDirectory() as folder:
        for k, name in enumerate(options.only.split(",")):
            progress.say(name)
            found[name] = PARTS[name](Path(folder))
            progress.update(k + 1)
    found["command"] = "python -m benchmarks.data_at_scale.training"
    found["machine"] = machine() | {"load": os.getloadavg()[0]}
    report(found, options.result)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in CHILDREN:
        print(json.dumps(CHILDREN[sys.argv[1]](*sys.argv[2:])))
    else:
        main()
