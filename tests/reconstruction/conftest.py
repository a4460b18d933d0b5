"""A reconstruction so small that its one program compiles in seconds."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from iso3d_jax.commands import config_files
from iso3d_jax.diffusion import schedule
from iso3d_jax.reconstruction.losses import Denoiser

SMALLEST = Path(__file__).parents[1] / "smallest_reconstruction.py"


@pytest.fixture
def small_config():
    return config_files.load_config(f"{SMALLEST}:20")


class PixelAutoencoder:
    """Latents are 4x4 blocks of pixels, exactly."""

    def encode(self, x):
        n, height, width, c = x.shape
        x = x.reshape(n, height // 4, 4, width // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
        mean = x.reshape(n, height // 4, width // 4, 16 * c)
        return mean, jnp.full_like(mean, -30.0)

    def decode(self, z):
        n, height, width, c = z.shape
        x = z.reshape(n, height, width, 4, 4, c // 16).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(n, height * 4, width * 4, c // 16)


jax.tree_util.register_static(PixelAutoencoder)


@dataclasses.dataclass
class Oracle:
    """A denoiser that is sure of what all views show; follows its context when that is NaN."""

    x0: jax.Array
    alphas_cumprod: jax.Array

    def __call__(self, z_t, t, context, camera):
        alpha_bar = self.alphas_cumprod[t[0, 0]]
        noise = (z_t - jnp.sqrt(alpha_bar) * self.x0) / jnp.sqrt(1 - alpha_bar)
        output = schedule.training_target(self.x0, noise, alpha_bar, "v")
        return output + 0.0 * jnp.sum(context) + 0.0 * jnp.sum(camera)


jax.tree_util.register_dataclass(Oracle, ["x0", "alphas_cumprod"], [])


@pytest.fixture
def red_square():
    """A picture [16, 16, 3] of a red square on white."""
    return jnp.ones((16, 16, 3)).at[4:12, 4:12].set(jnp.array([0.9, 0.1, 0.1]))


@pytest.fixture
def denoiser(red_square):
    """A denoiser that wants every view to show the red square."""
    alphas_cumprod = jnp.asarray(schedule.make_schedule())
    vae = PixelAutoencoder()
    x0, _ = vae.encode(red_square[None] * 2 - 1)
    return Denoiser(Oracle(x0[0], alphas_cumprod), vae, jnp.ones((1, 1, 4)), alphas_cumprod)
