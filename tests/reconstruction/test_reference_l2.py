"""The ablation's loss at the picture's side: its value, that it is learned, that it is off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.reconstruction import state
from iso3d_jax.reconstruction.losses import DenoiserSpec, active, reference_loss
from iso3d_jax.reconstruction.spec import make_spec
from iso3d_jax.reconstruction.step import run_steps


@pytest.fixture
def with_picture(denoiser, red_square):
    """The denoiser of a red square, which is given a picture of half a green one."""
    picture = jnp.ones((16, 16, 3)).at[4:12, 4:8].set(jnp.array([0.1, 0.8, 0.1]))
    mask = jnp.zeros((16, 16)).at[4:12, 4:8].set(1.0)
    return denoiser._replace(picture=picture, mask=mask)


def test_an_empty_scene_is_off_by_the_picture(with_picture, small_config):
    spec = make_spec(small_config)
    scene = state.start(spec)  # no cell is occupied yet
    grid = state.make_grid(scene, spec)
    loss, wanted = reference_loss(scene.params, with_picture, jax.random.key(0), grid, 16, spec)
    assert not wanted.any()
    seen = 32 / 256  # of the pixels
    colour = (2 * 0.9**2 + 0.2**2) / 3
    assert float(loss) == pytest.approx(seen * (colour + spec.reference.mask), rel=1e-4)


def test_it_is_learned_where_it_has_a_weight(with_picture, small_config):
    assert not active(small_config.loss.reference_l2)  # the method has none
    small_config.loss.update(guidance=0.0, reference_l2=1000.0)
    make_spec(small_config)
    _, record = run_steps(
        state.start(make_spec(small_config)), with_picture, jnp.int32(20),
        jax.random.key(small_config.seed), capacity=20, spec=make_spec(small_config),
        denoiser_spec=DenoiserSpec(16, 1.0, "v", "mvdream"), phase=0,
    )  # fmt: skip
    values = np.asarray(record["reference_l2"])
    assert values[-1] < 0.9 * values[0]
    np.testing.assert_allclose(record["total"] > 900 * values, True)


def test_without_the_picture_it_is_refused(denoiser, small_config):
    with pytest.raises(ValueError, match="needs a Denoiser with the picture"):
        reference_loss({}, denoiser, jax.random.key(0), None, 16, make_spec(small_config))
    small_config.reference.fov_deg = 0.0
    with pytest.raises(UserError, match=r"config\.reference\.fov_deg must be an angle above 0"):
        make_spec(small_config)
