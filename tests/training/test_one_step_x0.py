"""The one-step table, of denoisers that are known to look at one thing alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion.schedule import make_schedule
from iso3d_jax.training.one_step_x0 import Probe, ablate, flatten, one_step_x0_db
from iso3d_jax.weights.model_spec import ModelSpec


@dataclasses.dataclass
class Denoiser:
    """Answers with the context's first number, or the camera's first, as every x0."""

    schedule: jax.Array
    looks_at_camera: bool

    def __call__(self, z_t, t, context, camera):
        shape = (*z_t.shape[:2], 1, 1, 1)
        told = camera[..., 0] if self.looks_at_camera else jnp.broadcast_to(
            context[..., 0], z_t.shape[:2]
        )  # fmt: skip
        x0 = jnp.broadcast_to(told.reshape(shape), z_t.shape)
        alpha_bar = self.schedule[t].reshape(shape)
        return (z_t - jnp.sqrt(alpha_bar) * x0) / jnp.sqrt(1 - alpha_bar)


jax.tree_util.register_dataclass(Denoiser, ["schedule"], ["looks_at_camera"])


def probe(looks_at_camera, n=3):
    rng = np.random.default_rng(0)
    azimuth = np.arange(4) * 90.0 + rng.uniform(0, 90, (n, 1))
    config = ModelSpec(camera_encoding="mvdream", parameterization="eps")
    zero = np.zeros((n, 4))
    embedding = jnp.asarray(rng.normal(size=(n, 1, 4)))
    made = Probe(None, embedding, azimuth, zero, zero, zero, config)
    told = made.cameras()[..., 0] if looks_at_camera else made.embedding[..., :1, 0]
    told = np.broadcast_to(told, (n, 4)).reshape(n, 4, 1, 1, 1)
    noise = 0.1 * rng.normal(size=(n, 4, 5, 5, 2))
    return dataclasses.replace(made, latents=jnp.asarray(told + noise, jnp.float32))


@pytest.mark.parametrize("looks_at_camera", [False, True])
def test_what_is_looked_at_is_what_hurts_when_it_is_taken(looks_at_camera):
    table = ablate(Denoiser(jnp.asarray(make_schedule()), looks_at_camera), probe(looks_at_camera))
    right = table["right"]
    # The error is the noise of 0.1 around what it was told; the signal is the latents' variance.
    variance = float(jnp.var(probe(looks_at_camera).latents))
    assert right["t0980"] == pytest.approx(-10 * np.log10(0.01 / variance), abs=0.5)
    assert list(right) == ["t0500", "t0800", "t0900", "t0980"]
    half = {name: table.pop(f"{name}_asymmetric") for name in ("right", "cameras_turned_90")}
    loss = half["right"]["t0800"] - half["cameras_turned_90"]["t0800"]
    assert loss > 5 if looks_at_camera else abs(loss) < 1e-2
    blind = ("cameras_turned_90",) if not looks_at_camera else ("another_embedding", "no_embedding")
    for case, row in table.items():
        for t, value in row.items():
            if case in (*blind, "right"):
                assert value == pytest.approx(right[t], abs=1e-2)
            else:
                assert value < right[t] - 5


def test_flat_names_and_a_single_object():
    one = ablate(Denoiser(jnp.asarray(make_schedule()), False), probe(False, 1), (980,))
    assert set(flatten(one)) == {
        "x0_db/t0980/right", "x0_db/t0980/no_embedding", "x0_db/t0980/cameras_turned_90"
    }  # fmt: skip


def test_the_half_that_changes_when_turned():
    """Round objects, whose views are alike, are left out, however loud they are."""
    rng = np.random.default_rng(1)
    round_ones = np.repeat(5.0 * rng.normal(size=(3, 1, 5, 5, 2)), 4, 1)
    others = rng.normal(size=(3, 4, 5, 5, 2))
    latents = jnp.asarray(np.stack([round_ones, others], 1).reshape(6, 4, 5, 5, 2))
    made = dataclasses.replace(probe(True, 6), latents=latents)
    assert made.asymmetric.tolist() == [1, 3, 5]
    schedule = jnp.asarray(make_schedule())
    denoiser = Denoiser(schedule, True)
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), 800), latents.shape)
    values = [
        one_step_x0_db(
            denoiser, latents[i], noise[i], jnp.int32(800), schedule[800], made.embedding[i],
            made.cameras()[i], jnp.var(latents), parameterization="eps",
        )
        for i in (1, 3, 5)
    ]  # fmt: skip
    table = ablate(denoiser, made, (800,))
    assert table["right_asymmetric"]["t0800"] == pytest.approx(np.mean(values), rel=1e-5)
    assert table["right_asymmetric"]["t0800"] != table["right"]["t0800"]
