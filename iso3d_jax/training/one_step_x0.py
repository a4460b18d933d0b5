"""What a model pays attention to: the one-step x0 error with something taken away.

A noised set of true views is denoised in one step from noise level t, with the right embedding and
cameras, with another object's embedding, with none, and with the cameras turned by 90 degrees.
The score is the PSNR of the x0 latents against their own variance: 0 dB is no better than knowing
their mean, and a case that scores like the right one is ignored. A model that does not use its
embedding or its cameras shows here long before its pictures are worth looking at.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iso3d_jax import sampling
from iso3d_jax.core.progress import Progress
from iso3d_jax.diffusion.schedule import add_noise, make_schedule, to_eps_x0
from iso3d_jax.geometry.cameras import camera_condition
from iso3d_jax.models.unet import UNetWithReference
from iso3d_jax.models.vae import encode_pictures
from iso3d_jax.weights.model_spec import ModelSpec

TIMESTEPS = (500, 800, 900, 980)
CASES = ("right", "another_embedding", "no_embedding", "cameras_turned_90")
# of the half of the objects that change most when turned: a round one hides what cameras do
ASYMMETRIC = ("right", "cameras_turned_90")


@dataclasses.dataclass
class Probe:
    """Latents of true views and what belongs to them; made once, used for any UNet."""

    latents: Float[Array, "N V h w C"]  # scaled
    embedding: Float[Array, "N 1 D"]
    azimuth_deg: Float[np.ndarray, "N V"]
    elevation_deg: Float[np.ndarray, "N V"]
    fov_deg: Float[np.ndarray, "N V"]
    distance: Float[np.ndarray, "N V"]
    config: ModelSpec  # cameras and parameterization
    references: Float[Array, "N h w C"] | None = None  # for a network that is shown the picture

    @classmethod
    def make(cls, model, pictures, truth, azimuth_deg, elevation_deg, fov_deg, distance) -> Probe:
        """From a model's autoencoder and image tower.

        Args:
          model: with `vae`, `clip` and `config`.
          pictures: [N, H, W, 3]. truth: [N, V, H, W, 3], on white.
          azimuth_deg: [N, V], counted from the picture's. elevation_deg, fov_deg, distance: [N, V].
        """
        latents = []
        for views in truth:  # an object at a time: full-size pictures fill the memory
            mean, _ = _encode(model.vae, jnp.asarray(views, jnp.float32))
            latents.append(mean * model.config.scale_factor)
        embedding = jnp.concatenate(
            [sampling.embed_pictures(model, picture[None]) for picture in pictures]
        )
        references = None
        if model.config.network("unet").reference_channels:
            mean, _ = _encode(model.vae, jnp.asarray(pictures, jnp.float32))
            references = mean * model.config.scale_factor
        return cls(
            jnp.stack(latents), embedding, azimuth_deg, elevation_deg, fov_deg, distance,
            model.config, references,
        )  # fmt: skip

    def network(self, unet, i: int):
        """The network as object i's one is asked."""
        if self.references is None:
            return unet
        return UNetWithReference(unet, self.references[i][None, None])

    @functools.cached_property
    def asymmetric(self) -> Float[np.ndarray, " M"]:
        """The half of the objects whose true views differ most from those 90 degrees further on.

        The views are evenly spaced; the difference is relative to the object's own variance.
        """
        z = np.asarray(self.latents)
        quarter = max(z.shape[1] // 4, 1)
        changed = np.mean(np.square(z - np.roll(z, quarter, 1)), (1, 2, 3, 4))
        changed = changed / np.maximum(np.var(z, (1, 2, 3, 4)), 1e-12)
        return np.sort(np.argsort(-changed, kind="stable")[: (len(z) + 1) // 2])

    def cameras(self, turn_deg: float = 0.0) -> Float[np.ndarray, "N V 16"]:
        """Camera vectors, all turned about the object by the same angle."""
        return camera_condition(
            self.elevation_deg, self.azimuth_deg + turn_deg, self.config.cameras,
            fov_deg=self.fov_deg, distance=self.distance,
        )  # fmt: skip


_encode = jax.jit(encode_pictures)


@functools.partial(jax.jit, static_argnames="parameterization")
def one_step_x0_db(
    unet,
    z: Float[Array, "V h w C"],
    noise: Float[Array, "V h w C"],
    t: Array,
    alpha_bar: Float[Array, ""],
    context: Float[Array, "1 D"],
    camera: Float[Array, "V 16"],
    variance: Float[Array, ""],
    *,
    parameterization: str,
) -> Float[Array, ""]:
    """PSNR in dB of one object's x0 estimate, the signal being `variance`."""
    z_t = add_noise(z[None], noise[None], alpha_bar[None])
    output = unet(z_t, jnp.full((1, z.shape[0]), t), context[None], camera[None])
    x0 = to_eps_x0(output, z_t, alpha_bar[None], parameterization)[1]
    return -10.0 * jnp.log10(jnp.mean(jnp.square(x0[0] - z)) / variance)


def ablate(
    unet,
    probe: Probe,
    timesteps: tuple[int, ...] = TIMESTEPS,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """Mean one-step x0 PSNR over objects, `{case: {"t0500": dB, ...}}`.

    All cases see the same noise. `right_asymmetric` and `cameras_turned_90_asymmetric` are means
    over `Probe.asymmetric` alone. With one object there is no other's embedding and no half, and
    those cases are left out. `progress` counts noise levels.
    """
    z, n = probe.latents, len(probe.latents)
    variance = jnp.var(z)
    alphas_cumprod = make_schedule()
    right, turned = probe.cameras(), probe.cameras(90.0)
    context = probe.embedding
    cases = {
        "right": (context, right),
        "another_embedding": (jnp.roll(context, 1, 0), right),
        "no_embedding": (jnp.zeros_like(context), right),
        "cameras_turned_90": (context, turned),
    }
    if n == 1:
        del cases["another_embedding"]
    table: dict[str, dict[str, float]] = {name: {} for name in cases}
    if n > 1:
        table |= {f"{name}_asymmetric": {} for name in ASYMMETRIC}
    for done, t in enumerate(timesteps, 1):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(seed), t), z.shape)
        for name, (tokens, cameras) in cases.items():
            values = [
                one_step_x0_db(
                    probe.network(unet, i), z[i], noise[i], jnp.int32(t),
                    jnp.float32(alphas_cumprod[t]), tokens[i], cameras[i], variance,
                    parameterization=probe.config.parameterization,
                )
                for i in range(n)
            ]  # fmt: skip
            each = np.asarray(jnp.stack(values))
            table[name][f"t{t:04d}"] = float(each.mean())
            if n > 1 and name in ASYMMETRIC:
                table[f"{name}_asymmetric"][f"t{t:04d}"] = float(each[probe.asymmetric].mean())
        if progress is not None:
            progress.update(done)
    return table


def flatten(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """As scalars for a log: `x0_db/t0980/right` and so on."""
    return {f"x0_db/{t}/{case}": v for case, row in table.items() for t, v in row.items()}
