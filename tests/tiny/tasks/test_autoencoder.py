"""Training of the autoencoder: what stays, what is learned, and going on from another one."""

import jax.numpy as jnp
import numpy as np

from iso3d_jax.data.colour import on_white
from iso3d_jax.models.params import merge_params
from iso3d_jax.presets import autoencoder as config
from iso3d_jax.training.loop import fit
from iso3d_jax.training.tasks.registry import make_task
from iso3d_jax.weights import bundle


def small(**changes):
    cfg = config.get_config()
    cfg.colour_strength = 0.0
    cfg.update(steps=200, batch_size=8, log_every=50, sample_every=200, warmup_steps=20, **changes)
    return cfg


def stored(folder):
    return bundle.load_weights(folder, ("vae",))["vae"]


def test_the_decoder_learns_and_the_latents_stay_when_another_goes_on(tmp_path):
    cfg = small()
    task = make_task(cfg)
    start = {path: np.asarray(w) for path, w in task.init_params.items()}
    fit(task, tmp_path / "first")
    after = {path: jnp.asarray(w) for path, w in stored(tmp_path / "first").items()}
    images = on_white(task.table.images[:, 0].astype(np.float32) / 255) * 2 - 1

    def error(params):
        vae = merge_params(task.graphdef, params)
        return float(jnp.abs(vae.decode(vae.encode(images)[0]) - images).mean())

    assert error(after) < 0.9 * error(task.init_params)
    changed = {p for p, w in after.items() if not np.array_equal(w, start[p])}
    assert {path.split("/")[0] for path in changed} == {"decoder"}

    cfg = small(init_from=str(tmp_path / "first"))
    cfg.steps = 3
    fit(make_task(cfg), tmp_path / "second")
    for path, before in stored(tmp_path / "first").items():
        same = np.array_equal(stored(tmp_path / "second")[path], before)
        assert same == path.startswith("encoder/"), path
    scales = [bundle.load_config(tmp_path / run).scale_factor for run in ("first", "second")]
    assert scales[0] == scales[1] != 1.0
