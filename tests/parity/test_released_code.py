"""The released implementation's own numbers, float32 (tests/golden/README.md).

The weights go the way that a user's do: converted from the checkpoint to a model folder, then
loaded from it.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion import classifier_free, ddim, schedule
from iso3d_jax.geometry import cameras
from iso3d_jax.guidance import sds
from iso3d_jax.weights.bundle import load_model
from iso3d_jax.weights.importing import import_weights

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ("multi_view", "with_reference", "single_view_with_reference", "single_view")


def golden(name):
    return np.load(GOLDEN / f"{name}.npz")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden_model")
    arch = json.loads((GOLDEN / "config.json").read_text())
    import_weights([str(GOLDEN / "isotropic3d_tiny_fp16.ckpt")], folder, arch)
    return load_model(folder)


@jax.jit
def run_unet(unet, x, t, context, camera):
    return unet(x, t, context, camera)


@jax.jit
def decode(vae, z):
    return vae.decode(z)


def nhwc(x):
    return np.asarray(x).transpose(0, 2, 3, 1)


def views(x, num_views):
    """[B*V, C, H, W] -> [B, V, H, W, C]."""
    x = nhwc(x)
    return x.reshape(-1, num_views, *x.shape[1:])


@pytest.mark.parametrize("case", CASES)
def test_unet(model, same, case):
    data = {
        key.removeprefix(f"{case}/"): value
        for key, value in golden("unet").items()
        if key.startswith(f"{case}/")
    }
    num_views = int(data["num_views"])
    out = run_unet(
        model.unet,
        views(data["x"], num_views),
        data["t"].reshape(-1, num_views).astype(np.int32),
        data["context"][::num_views],
        data["camera"].reshape(-1, num_views, 16),
    )
    same(f"UNet, {case}", out, views(data["out"], num_views))
    if "reference" in case:
        assert data["t"][0] == 0  # the noise-free view


def test_autoencoder(model, same):
    data = golden("vae")
    mean, logvar = jax.jit(lambda vae, x: vae.encode(x))(model.vae, nhwc(data["image"]))
    same("autoencoder, posterior mean", mean, nhwc(data["mean"]))
    same("autoencoder, posterior log-variance", logvar, nhwc(data["logvar"]))
    same("autoencoder, decoded", decode(model.vae, nhwc(data["latent"])), nhwc(data["decoded"]))


def test_image_tower(model, same):
    data = golden("clip")
    images = nhwc(data["image_uint8"]).astype(np.float32) / 255.0
    pixels = jax.jit(lambda clip, x: clip.preprocess(x))(model.clip, images)
    theirs = nhwc(data["preprocessed_first"])  # rounded to float16: off by half a step at most
    half = np.spacing(np.abs(theirs)).astype(np.float32) / 2
    theirs = theirs.astype(np.float32)
    nearest = np.clip(theirs, pixels[:1] - half, pixels[:1] + half)
    same("CLIP, resized and normalised", nearest, theirs)
    same("CLIP, uint8 pixels to embedding", jax.jit(lambda clip, x: clip(x))(model.clip, pixels),
         data["embedding"])  # fmt: skip


def test_schedule(model, same):
    same("schedule", model.alphas_cumprod, golden("schedule")["alphas_cumprod"], 1e-6)


def test_cameras(same):
    data = golden("cameras")
    azimuths = cameras.orthogonal_azimuths(0.0, 4)
    for elevation in (15, 5):
        elevations = jnp.full(4, float(elevation))
        rows = cameras.camera_condition(elevations, azimuths, "isotropic3d_sampling")
        theirs = data[f"sampling_elev{elevation}"]
        same(f"cameras of 2-D sampling, {elevation} degrees", rows, theirs, 1e-6)
    rows = cameras.camera_condition(
        data["guidance_elevation"], data["guidance_azimuth"], "isotropic3d"
    )
    same("cameras of SDS", rows, data["guidance"], 1e-6)


@pytest.mark.parametrize("t", [50, 500, 900])
def test_guidance(model, same, t):
    data = golden("guidance")
    latents, noise = views(data["latents"], 4), views(data["noise"], 4)
    alpha_bar = model.alphas_cumprod[t]
    z_t = schedule.add_noise(latents, noise, alpha_bar)
    same(f"SDS t={t}, noisy latents", z_t, views(data[f"t{t}/noisy"], 4))

    def denoise(*args):
        return run_unet(model.unet, *args)

    contexts = classifier_free.without_and_with(jnp.asarray(data["context"][:1]))
    camera = jnp.asarray(data["camera"])[None]
    outputs = classifier_free.predict_both(denoise, z_t, jnp.int32(t), contexts, camera)
    for name, output in zip(("uncond", "cond"), outputs, strict=True):
        same(f"SDS t={t}, noise, {name}", output, views(data[f"t{t}/eps_{name}"], 4))

    def run(kind):
        def loss(latents):
            return sds.score_distillation(
                denoise, latents, noise, jnp.int32(t), alpha_bar, contexts, camera,
                parameterization="eps", scale=10.0, rescale=0.5, kind=kind,
            )  # fmt: skip

        return jax.value_and_grad(loss, has_aux=True)(latents)

    (loss, x0), grad = run("x0")
    same(f"SDS t={t}, rescaled x0", x0, views(data[f"t{t}/x0_rescaled"], 4))
    same(f"SDS t={t}, x0-reconstruction loss", loss, data[f"t{t}/recon_loss"])
    same(f"SDS t={t}, its gradient", grad, views(data[f"t{t}/recon_grad"], 4))
    _, grad = run("sds")
    # The released gradient enters through 0.5 * mse(latents, latents - grad) summed over all and
    # divided by the batch: ours carries the division.
    same(f"SDS t={t}, classic gradient", 4 * grad, views(data[f"t{t}/sds_grad"], 4))


@pytest.fixture(scope="module")
def sample(model):
    @jax.jit
    def run(unet, z_T, context, camera, scale, eta, key):
        contexts = classifier_free.without_and_with(context)

        def denoise(z_t, t):
            outputs = classifier_free.predict_both(unet, z_t, t, contexts, camera)
            return classifier_free.guide(*outputs, scale)

        return ddim.sample(denoise, z_T, key, model.alphas_cumprod, steps=10, eta=eta)

    return run


@pytest.mark.parametrize("eta", [0, 1])
def test_ten_ddim_steps(model, sample, same, eta, monkeypatch):
    data = golden("ddim")
    np.testing.assert_array_equal(ddim.timesteps(10), data["timesteps"])
    # The sampler's own noise is replaced by the recorded one: it takes each step's for its key.
    noise = np.stack([views(step, 4) for step in data["eta1/step_noise"]])
    monkeypatch.setattr(jax.random, "split", lambda key, steps: key)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: key)
    latents = sample(
        model.unet, views(data["initial"], 4), data["context"][:1], data["camera"][None],
        data["guidance_scale"], jnp.float32(eta), noise,
    )  # fmt: skip
    same(f"ten DDIM steps, eta {eta}, latents", latents, views(data[f"eta{eta}/latents"], 4), 1e-4)
    images = decode(model.vae, latents[0, :2] / model.config.scale_factor)
    first = nhwc(data[f"eta{eta}/image_first"])
    same(f"ten DDIM steps, eta {eta}, view 0", images[:1], first, 1e-4)
