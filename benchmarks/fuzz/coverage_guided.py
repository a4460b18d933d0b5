"""Damaged inputs that follow the readers' branches, by Atheris: what reaches a new one is kept.

    pip install atheris
    python -m benchmarks.fuzz.coverage_guided gltf --seconds 1200 --out out/gltf
    python -m benchmarks.fuzz.coverage_guided obj_ply --seconds 1200 --out out/obj_ply
    python -m benchmarks.fuzz.coverage_guided pickle --seconds 1200 --out out/pickle

It begins with the whole files of the corpora here and tells outcomes apart as they do. What ends in
anything but a result or our own error is written to OUT/findings and passed over, so that one does
not hide the next; each place in the code counts once. OUT/corpus holds what reached new branches
and is where the same command goes on; OUT/result.json counts. The exit status is 1 where something
was found. It takes one core; Atheris is no dependency of the package.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fuzz import child

LARGEST = 1 << 14  # bytes of an input
SECONDS = 5.0  # of processor time for one
SEPARATOR = b"\0"  # between the text and the other bytes of an input


class Reader(NamedTuple):
    """What is read, and how inputs are made of the bytes that Atheris changes.

    Attributes:
      seeds: whole inputs.
      unpack: the files of an input as of `child`: {name: bytes} and which of them to read.
      attempt: reads a path; whatever it raises is the outcome.
      change: another change of an input than those of bytes; None where there is none.
    """

    seeds: list[bytes]
    unpack: Any
    attempt: Any
    change: Any = None


def gltf() -> Reader:
    """glTF's JSON and its buffer, a separator between, so that no length in a header matters."""
    from benchmarks.fuzz import meshes

    wholes = meshes._wholes()
    apart, packed = wholes["gltf"][0], wholes["glb"][0]["box.glb"]

    def unpack(data: bytes):
        if data.startswith(b"glTF"):
            return {"box.glb": data}, "box.glb"
        text, _, buffer = data.partition(SEPARATOR)
        return {"box.gltf": text, "box of.bin": buffer}, "box.gltf"

    def change(data: bytes, draw: random.Random) -> bytes:
        text, _, buffer = data.partition(SEPARATOR)
        try:
            document = json.loads(text)
            return json.dumps(meshes._change_json(draw, document)).encode() + SEPARATOR + buffer
        except (ValueError, TypeError, IndexError, RecursionError):
            return data  # no JSON any more, or nothing in it

    seeds = [apart["box.gltf"] + SEPARATOR + apart["box of.bin"], packed]
    return Reader(seeds, unpack, meshes.attempt, change)


def obj_ply() -> Reader:
    """PLY files, which begin with their name; else an OBJ, a separator, and its materials."""
    from benchmarks.fuzz import meshes

    wholes = meshes._wholes()
    box = wholes["obj"][0]

    def unpack(data: bytes):
        if data.startswith(b"ply"):
            return {"box.ply": data}, "box.ply"
        lines, _, materials = data.partition(SEPARATOR)
        return box | {"box.obj": lines, "box.mtl": materials}, "box.obj"

    def change(data: bytes, draw: random.Random) -> bytes:
        return meshes._change_words(draw, data)

    seeds = [wholes[kind][0]["box.ply"] for kind in ("ply", "ply_binary")]
    return Reader([*seeds, box["box.obj"] + SEPARATOR + box["box.mtl"]], unpack, meshes.attempt,
                  change)  # fmt: skip


def pickle() -> Reader:
    """A pickle, which is put into a zip beside storages; a whole file where it begins as one."""
    from benchmarks.fuzz import weights
    from iso3d_jax.weights import torch_file

    structure, storages = weights.small()

    def unpack(data: bytes):
        if not data.startswith((b"PK", torch_file._OLD)):
            data = weights.zipped(data, storages)
        return {"x.ckpt": data}, "x.ckpt"

    def attempt(path: Path):
        for tensor in torch_file.open_torch(path).values():
            tensor.read().sum()

    seeds = [
        structure, weights.lightning(structure), weights.zipped(structure, storages),
        weights.old(structure, storages),
    ]  # fmt: skip
    return Reader(seeds, unpack, attempt)


READERS = {"gltf": gltf, "obj_ply": obj_ply, "pickle": pickle}


class Run:
    """Tries inputs until its time is up, and ends the process then: Atheris does not return."""

    def __init__(self, reader: Reader, out: Path, seconds: float):
        self.reader, self.out = reader, out
        self.end, self.begin = time.monotonic() + seconds, time.monotonic()
        self.verdicts: Counter[str] = Counter()
        self.findings: dict[str, str] = {}

    def try_one(self, data: bytes) -> None:
        files, entry = self.reader.unpack(data)
        verdict, detail, _ = child._try(self.reader, ("", files, entry), SECONDS)
        self.verdicts[verdict] += 1
        if verdict not in ("ok", "our error"):
            # An exception's file and line; what has none is told apart by its first words.
            place = detail.rpartition("(")[2] if detail.endswith(")") else detail[:24]
            if place not in self.findings:
                self.findings[place] = f"{verdict}: {detail[:300]}"
                folder = self.out / "findings"
                folder.mkdir(exist_ok=True)
                (folder / f"{len(self.findings)}").write_bytes(data)
                print(f"finding {len(self.findings)}: {self.findings[place]}", flush=True)
        if time.monotonic() > self.end:
            self.finish()

    def finish(self) -> None:
        corpus = sum(1 for _ in (self.out / "corpus").iterdir())
        result = {
            "executions": self.verdicts.total(), "seconds": round(time.monotonic() - self.begin),
            "verdicts": dict(self.verdicts), "inputs kept": corpus,
            "findings": list(self.findings.values()),
        }  # fmt: skip
        (self.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1), flush=True)
        os._exit(1 if self.findings else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("reader", choices=list(READERS))
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    import atheris

    with atheris.instrument_imports(include=["iso3d_jax"], enable_loader_override=False):
        reader = READERS[options.reader]()
        for seed in reader.seeds:  # imports what is imported late; a whole file must be read
            files, entry = reader.unpack(seed)
            outcome = child._try(reader, ("", files, entry), SECONDS)
            if outcome[0] != "ok":
                sys.exit(f"a whole file is not read: {outcome}")
    corpus = options.out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for k, seed in enumerate(reader.seeds):
        (corpus / f"seed{k}").write_bytes(seed)
    run = Run(reader, options.out, options.seconds)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if reader.change is not None and draw.random() < 0.6:
            return reader.change(data, draw)[:most]
        return atheris.Mutate(data, most)

    flags = [f"-max_len={LARGEST}", f"-seed={options.seed}", "-rss_limit_mb=2048", "-timeout=60",
             "-mutate_depth=2", f"-artifact_prefix={options.out}/"]  # fmt: skip
    atheris.Setup([sys.argv[0], str(corpus), *flags], run.try_one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
