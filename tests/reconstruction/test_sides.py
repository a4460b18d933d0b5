"""A denoiser that means another colour on each side: where its colours land on the object."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from iso3d_jax.diffusion import schedule
from iso3d_jax.geometry import camera_sets
from iso3d_jax.reconstruction import loop, pictures, state
from iso3d_jax.reconstruction.losses import DenoiserSpec
from iso3d_jax.reconstruction.spec import make_spec


def tint(azimuth):
    """A colour wheel: red in front, and neither mirrored nor turned the same."""
    turns = jnp.asarray(azimuth)[..., None] - 2 * np.pi / 3 * jnp.arange(3)
    return 0.45 + 0.45 * jnp.cos(turns)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Wheel:
    """Sure of a square of the side's colour on white; knows cameras as `mvdream` defines them."""

    alphas_cumprod: jax.Array

    def __call__(self, z_t, t, context, camera):
        azimuth = jnp.arctan2(camera[..., 3], -camera[..., 7])  # stands on (sin a, -cos a)
        colour = tint(azimuth)[:, :, None, None]
        inside = jnp.zeros((16, 16, 1)).at[4:12, 4:12].set(1.0)
        picture = 2 * (1 - inside + inside * colour) - 1  # [B, V, 16, 16, 3]
        x = picture.reshape(*picture.shape[:2], 4, 4, 4, 4, 3).swapaxes(3, 4)
        x0 = x.reshape(*picture.shape[:2], 4, 4, 48)
        alpha_bar = self.alphas_cumprod[t[0, 0]]
        noise = (z_t - jnp.sqrt(alpha_bar) * x0) / jnp.sqrt(1 - alpha_bar)
        return schedule.training_target(x0, noise, alpha_bar, "v")


def test_each_side_gets_the_colour_that_is_meant_there(denoiser, small_config, tmp_path):
    cfg = small_config
    cfg.steps, cfg.phases = 150, ((150, 16, 1),)
    cfg.guidance.update(low=(0, 0.02, 0.02, 1), high=(0, 0.5, 0.5, 1))
    wheel = denoiser._replace(unet=Wheel(denoiser.alphas_cumprod))
    scene, history, _ = loop.optimize(
        state.start(make_spec(cfg)),
        wheel,
        make_spec(cfg),
        DenoiserSpec(16, 1.0, "v", "mvdream"),
        tmp_path,
        {},
        label="sds",
    )
    views = camera_sets.ring(8, 15.0, 40.0, 1.1, start=15.0)
    rgb, opacity, *_ = pictures.render_views(scene, views, 16, make_spec(cfg))
    assert history["guidance"][-1] < 0.5 * history["guidance"][0]
    assert opacity[:, 6:10, 6:10].min() > 0.5 > opacity[:, 0].max()
    seen = rgb[:, 6:10, 6:10].mean((1, 2))
    azimuth = np.radians(15.0 + 45.0 * np.arange(8))

    def distance(meant):
        return float(np.mean(np.linalg.norm(seen - np.asarray(tint(meant)), axis=-1)))

    right = distance(azimuth)
    wrong = [distance(-azimuth)] + [distance(azimuth + np.pi / 4 * k) for k in range(1, 8)]
    assert right < 0.6 * min(wrong), (right, wrong)
