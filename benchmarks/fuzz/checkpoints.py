"""Damaged files of runs: state.npz and views.npz of reconstructions, orbax folders of training."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fuzz.mutation import mutate_bytes

SECONDS = 30.0
KEPT = 2  # checkpoints of the training run


def attempt(path: Path) -> None:
    """Opens what is damaged as the command that goes on with it does."""
    if path.name == "config.json":
        _restore(path.parent)
        return
    from iso3d_jax.reconstruction import state
    from iso3d_jax.reconstruction.init import draft
    from iso3d_jax.reconstruction.spec import make_spec

    metadata = state.load_metadata(path.parent)
    state.load_step(path.parent)
    state.load(path.parent, make_spec(metadata["config"]))
    draft.load_views(path.with_name("views.npz"))
    draft.load_prepared(path.with_name("views.npz"))


def warm_up() -> None:
    """JAX and orbax, imported and used once on what is whole."""
    for files, entry in (_reconstruction(), _training()):
        with tempfile.TemporaryDirectory() as folder:
            for name, raw in files.items():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes(raw)
            attempt(Path(folder) / entry)


def _state() -> dict[str, np.ndarray]:
    return {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.float32)}


def _open(workdir: Path):
    from ml_collections import ConfigDict

    from iso3d_jax.training.checkpoint import Checkpoints

    return Checkpoints(workdir, ConfigDict({"keep": KEPT, "seed": 0}))


def _restore(workdir: Path) -> None:
    import jax

    checkpoints = _open(workdir)
    try:
        if checkpoints.latest_step() is not None:
            place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            restored = checkpoints.restore(_state(), dict.fromkeys(_state(), place))
            checkpoints.position(checkpoints.latest_step() or 0)
            for name, value in _state().items():
                np.testing.assert_array_equal(restored[name], value)
    finally:
        checkpoints.close()


def _files(folder: Path) -> dict[str, bytes]:
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


@functools.cache
def _training() -> tuple[dict[str, bytes], str]:
    import jax.numpy as jnp

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = _open(Path(folder))
        for step in range(1, KEPT + 1):
            checkpoints.save(step, {k: jnp.asarray(v) for k, v in _state().items()})
            checkpoints.wait()
        checkpoints.close()
        return _files(Path(folder)), "config.json"


@functools.cache
def _reconstruction() -> tuple[dict[str, bytes], str]:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from iso3d_jax.reconstruction import state
    from iso3d_jax.reconstruction.spec import make_spec
    from tests.smallest_reconstruction import get_config

    cfg = get_config()
    views = np.zeros((1, 4, 8, 8, 3), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        metadata = {"config": cfg.to_dict(), "picture": "0", "model": "x", "init": "none"}
        state.save(folder, state.start(make_spec(cfg)), metadata)
        np.savez(Path(folder) / "views.npz", views=views, prepared=views[0, 0])
        return _files(Path(folder)), state.FILE


def cases(seed: int, n: int) -> Iterator[tuple[str, dict[str, bytes], str]]:
    """n folders with one to three files damaged, cut off or gone; some without checksums."""
    for index in range(n):
        draw = np.random.default_rng((seed, index))
        files, entry = (_reconstruction, _reconstruction, _training)[index % 3]()
        files = dict(files)
        names = [name for name in files if not name.startswith("checksums/")]
        if index % 3 == 2 and draw.integers(2):
            files = {name: files[name] for name in names}
        for name in draw.permutation(names)[: int(draw.integers(1, 4))]:
            raw, kind = files[str(name)], draw.integers(4)
            if kind == 0:
                files[str(name)] = raw[: int(draw.integers(len(raw) + 1))]
            elif kind == 1 and name != entry:
                del files[str(name)]
            else:
                files[str(name)] = mutate_bytes(draw, raw)
        yield f"{'training' if index % 3 == 2 else 'reconstruction'}_{index}", files, entry
