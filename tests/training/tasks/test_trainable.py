"""Which weights are trained, and low-rank changes of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.training.tasks import trainable

Q, OUT = "block/attn1/to_q/", "block/attn2/to_out/"
SHAPES = {
    Q + "kernel": (64, 32), OUT + "kernel": (32, 64), OUT + "bias": (64,),
    "block/ff/proj_in/kernel": (64, 32), "layout/drawing/draw/kernel": (4, 4),
    "layout/into/kernel": (4, 4),
}  # fmt: skip
PARAMS = {path: jnp.full(shape, 0.5) for path, shape in SHAPES.items()}


def test_every_kernel_of_attention_gets_a_random_and_a_zero_matrix(make_stage):
    cfg = make_stage(trainable="lora", lora_rank=8)
    params = trainable.add_lora(PARAMS, cfg)
    added = {path: np.asarray(params[path]) for path in params.keys() - PARAMS.keys()}
    assert {path: a.shape for path, a in added.items()} == {
        Q + "lora_a": (64, 8), Q + "lora_b": (8, 32),
        OUT + "lora_a": (32, 8), OUT + "lora_b": (8, 64),
    }  # fmt: skip
    for path, a in added.items():
        if path.endswith("lora_b"):
            assert not a.any()
        else:  # a product with inputs of size 1 has size 1
            np.testing.assert_allclose(a.std(), len(a) ** -0.5, rtol=0.12)
            assert abs(a.mean()) < 0.3 * a.std()
    one, other = added[Q + "lora_a"][:32] * 8.0, added[OUT + "lora_a"] * 32**0.5
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.25  # each layer's own
    again = trainable.add_lora(PARAMS, cfg)
    np.testing.assert_array_equal(again[Q + "lora_a"], added[Q + "lora_a"])
    seeded = trainable.add_lora(PARAMS, make_stage(trainable="lora", lora_rank=8, seed=4))
    assert abs(np.corrcoef(seeded[Q + "lora_a"].ravel(), added[Q + "lora_a"].ravel())[0, 1]) < 0.25
    assert trainable.add_lora(PARAMS, make_stage()) is PARAMS
    assert set(PARAMS) == set(SHAPES)  # what was given is left alone


def test_low_rank_changes_are_added_times_alpha_over_rank(make_stage):
    cfg = make_stage(trainable="lora", lora_rank=2, lora_alpha=3.0)
    params = trainable.add_lora(PARAMS, cfg)
    rng = np.random.default_rng(0)
    params = {
        path: rng.normal(size=np.shape(value)).astype(np.float32) if "lora" in path else value
        for path, value in params.items()
    }
    merged = trainable.merge_lora(params, cfg)
    assert set(merged) == set(SHAPES)
    for layer in (Q, OUT):
        want = 0.5 + 1.5 * params[layer + "lora_a"] @ params[layer + "lora_b"]
        np.testing.assert_allclose(merged[layer + "kernel"], want, rtol=1e-4, atol=1e-5)
    for path in SHAPES.keys() - {Q + "kernel", OUT + "kernel"}:
        np.testing.assert_array_equal(merged[path], PARAMS[path])
    assert trainable.merge_lora(PARAMS, make_stage()) is PARAMS


@pytest.mark.parametrize(
    "kind, paths",
    [
        ("all", sorted(SHAPES)),
        ("attention", [Q + "kernel", OUT + "bias", OUT + "kernel"]),
        ("lora", [Q + "lora_a", Q + "lora_b", OUT + "lora_a", OUT + "lora_b"]),
        ("refine", sorted(SHAPES.keys() - {"layout/drawing/draw/kernel"})),
    ],
)
def test_what_each_kind_trains(make_stage, kind, paths):
    # Its prior slot takes what another training made.
    cfg = make_stage(trainable=kind, model=dict(unet=dict(layout_size=4)))
    found = trainable.trained_paths(trainable.add_lora(PARAMS, cfg), cfg)
    assert found == paths


def test_all_of_a_network_without_a_prior_is_refined(make_stage):
    assert trainable.trained_paths(PARAMS, make_stage(trainable="refine")) == sorted(SHAPES)


def test_a_network_without_attention_and_an_unknown_kind_are_refused(make_stage):
    for kind in ("attention", "lora"):
        with pytest.raises(UserError, match=f"trainable is '{kind}', but the network has no"):
            trainable.trained_paths(
                {"conv/kernel": PARAMS[Q + "kernel"]}, make_stage(trainable=kind)
            )
    with pytest.raises(UserError, match="did you mean 'lora'"):
        make_stage(trainable="lor")
