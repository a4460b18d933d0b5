"""The decoder learns to draw what the model samples; everything else of the model stays."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.presets import decoder as config
from iso3d_jax.tiny.tasks.sampled_views import chroma, ink_overlap, mask_overlap
from iso3d_jax.training.loop import fit
from iso3d_jax.training.tasks.registry import make_task
from iso3d_jax.weights import bundle
from iso3d_jax.weights.folders import TINY


def test_overlap_is_one_for_the_truth_and_half_for_twice_the_area():
    truth = jnp.ones((2, 16, 16, 3)).at[:, 4:12, 4:8].set(0.2)
    drawn = jnp.where(truth == 1.0, 1.2, truth)  # whiter than white: without doubt not the object
    wider = drawn.at[1, 4:12, 8:12].set(0.2)
    np.testing.assert_allclose(mask_overlap(wider, truth), [1.0, 0.5], atol=1e-3)
    assert mask_overlap(truth, truth)[0] < 0.7  # white at the threshold's foot is still in doubt


def test_what_makes_a_pale_object_more_of_one_does_not_tint_it():
    truth = jnp.ones((1, 8, 8, 3)).at[:, 2:6, 2:6].set(0.9)
    drawn = jnp.full((1, 8, 8, 3), 0.97).at[..., 0].add(-0.01)  # not quite white, a little cyan
    pull = jax.grad(lambda x: mask_overlap(x, truth).sum())(drawn)[0, 3, 3]
    assert pull[0] < 0.0
    np.testing.assert_allclose(pull, pull[0], rtol=1e-5)


def test_a_doubtful_edge_is_best_with_all_of_the_ink_or_none():
    truth = jnp.ones((3, 8, 8, 3)).at[:, 2:6, 2:6].set(0.2)
    np.testing.assert_allclose(ink_overlap(truth, truth), 1.0)
    edges = jnp.stack([truth[0].at[2:6, 6].set(x) for x in (1.0, 0.6, 0.2)])
    wider = truth.at[:, 2:6, 6].set(0.2)
    either = (ink_overlap(edges, truth) + ink_overlap(edges, wider)) / 2  # one of two, none knows
    assert either[1] < min(either[0], either[2])
    squared = ((edges - truth) ** 2 + (edges - wider) ** 2).mean((1, 2, 3))
    assert squared.argmin() == 1
    assert ink_overlap(jnp.ones_like(truth), truth)[0] == 0.0


def test_colourful_is_the_objects_mean_colour_whatever_its_hue():
    truth = jnp.ones((4, 8, 8, 3)).at[:, 2:6, 2:6].set(0.5)
    drawn = truth.at[1, 2:6, 2:6].set(jnp.array([1.0, 0.0, 0.0]))
    drawn = drawn.at[2, 2:6, 2:6].set(jnp.array([0.0, 1.0, 1.0]))
    drawn = drawn.at[3, 0].set(0.0).at[3, 0, :, 0].set(1.0)  # red, but not on the object
    np.testing.assert_allclose(chroma(drawn, truth), [0.0, 0.4, 0.4, 0.0], atol=1e-3)


@pytest.mark.long
def test_the_shipped_models_decoder_goes_on_and_the_rest_stays(tmp_path):
    cfg = config.get_config()
    with pytest.raises(UserError, match="needs --config.init_from"):
        make_task(cfg)
    cfg.init_from = str(TINY)
    cfg.update(steps=3, objects=2, batch_size=4, log_every=1, sample_every=3, warmup_steps=1)
    fit(make_task(cfg), tmp_path)

    names = ("unet", "vae", "clip")
    before, after = (bundle.load_weights(path, names) for path in (TINY, tmp_path))
    as_saved = {n: {k: v.astype(jnp.bfloat16) for k, v in w.items()} for n, w in before.items()}
    changed = {
        f"{name}/{path.split('/')[0]}"
        for name in names
        for path, value in as_saved[name].items()
        if not np.array_equal(value, after[name][path])
    }
    assert changed == {"vae/decoder"}
    assert bundle.load_config(tmp_path) == bundle.load_config(None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0.3 < lines[-1]["mask_overlap"] <= 1.0 and lines[-1]["psnr"] > 10.0
    assert 0.1 < lines[-1]["vividness"] < 3.0
    assert list((tmp_path / "samples").iterdir())
