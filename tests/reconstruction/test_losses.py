"""The losses of an iteration by hand: a scene, an autoencoder and a denoiser that are formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion import schedule
from iso3d_jax.geometry import camera_sets
from iso3d_jax.nerf import occupancy, shading
from iso3d_jax.reconstruction import losses
from iso3d_jax.reconstruction.losses import Denoiser, DenoiserSpec
from iso3d_jax.reconstruction.spec import make_spec

ALPHAS = np.asarray(schedule.make_schedule(), np.float64)
SPEC = DenoiserSpec(6, 0.25, "eps", "mvdream")  # 6x6 pixels
GRID = occupancy.Grid(jnp.ones(8, bool), jnp.float32(1.0))


class Identity:
    """Latents are the pixels themselves, as uncertain as is said."""

    def __init__(self, logvar=-30.0):
        self.logvar = logvar

    def encode(self, x):
        return x, jnp.full_like(x, self.logvar)

    def decode(self, z):
        return 3.0 * z


class Network:
    """Keeps what it was asked and predicts a given x0, by default nothing at all."""

    def __init__(self, x0=lambda camera, context: 0.0):
        self.x0, self.asked = x0, None

    def __call__(self, z_t, t, context, camera):
        self.asked = z_t, t, context, camera
        alpha_bar = jnp.asarray(ALPHAS, jnp.float32)[t][..., None, None, None]
        return (z_t - jnp.sqrt(alpha_bar) * self.x0(camera, context)) / jnp.sqrt(1 - alpha_bar)


class Scene:
    """Stands for the render: every pixel has a colour of its own, the parameters."""

    def __init__(self, monkeypatch):
        self.seen = None
        monkeypatch.setattr(losses, "_scene", self)

    def __call__(self, keys, shared, rays, *, spec, weight):
        self.seen = keys, shared, rays
        rgb = shared[0]
        rgb = rgb(rays) if callable(rgb) else rgb
        scalars = {name: jnp.array([0.1, 0.5]) for name in ("opacity", *losses.WANTED)}
        return (rgb, jnp.mean(rgb, -1)), scalars


@pytest.fixture
def scene(monkeypatch):
    return Scene(monkeypatch)


@pytest.fixture
def cfg(small_config):
    """Two groups of three views."""
    small_config.views = 3
    small_config.phases = ((12, 6, 2), (20, 6, 1))
    return small_config


def denoiser(unet, logvar=-30.0, context=1.5):
    return Denoiser(unet, Identity(logvar), jnp.full((1, 1, 4), context), jnp.asarray(ALPHAS))


def distil(cfg, scene, x0=lambda camera, context: 0.0, *, phase=0, **changes):
    """A program of (params, key, step): losses and facts, what was asked, what was rendered."""
    given = dict(spec=make_spec(cfg), denoiser_spec=SPEC, phase=phase)

    @jax.jit
    def iteration(params, key, step):
        unet = Network(x0)
        found = losses.sds_losses(
            params, denoiser(unet, **changes), jax.random.key(key), step, GRID, **given
        )
        return found, unet.asked, scene.seen[1:]

    return iteration


def pixels(views=6, size=6, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(size=(views * size * size, 3)), jnp.float32)


def standing(rays_o):
    """Azimuth and elevation of where rays begin, degrees."""
    x, y, z = np.asarray(rays_o, np.float64).T
    return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))


def test_the_denoiser_is_asked_about_what_was_rendered(cfg, scene):
    """Its cameras are those of the rays, view by view; azimuth 0 of the scene is -y for it."""
    rgb = pixels()
    (found, facts), asked, (_, rays) = distil(cfg, scene)(rgb, 0, 5)
    z_t, t, context, camera = (np.asarray(x, np.float64) for x in asked)
    rays_o, rays_d = (np.asarray(x, np.float64) for x in rays)
    assert z_t.shape == (4, 3, 6, 6, 3) and camera.shape == (4, 3, 16)
    np.testing.assert_array_equal(camera[:2], camera[2:])
    np.testing.assert_array_equal(context, np.repeat([0.0, 1.5], 2)[:, None, None] * np.ones(4))
    position = rays_o.reshape(2, 3, 36, 3)
    assert (position == position[:, :, :1]).all()  # all rays of a view have one camera
    unit = position[:, :, 0] / np.linalg.norm(position[:, :, 0], axis=-1, keepdims=True)
    rows = camera[:2].reshape(2, 3, 4, 4)
    np.testing.assert_allclose(rows[..., 0, 3], unit[..., 1], atol=1e-5)
    np.testing.assert_allclose(rows[..., 1, 3], -unit[..., 0], atol=1e-5)
    np.testing.assert_allclose(rows[..., 2, 3], unit[..., 2], atol=1e-5)
    azimuth, elevation = standing(position[:, :, 0].reshape(-1, 3))
    azimuth = azimuth.reshape(2, 3)
    np.testing.assert_allclose(np.diff(azimuth), 120, atol=1e-3)
    assert abs(azimuth[0, 0] - azimuth[1, 0]) > 0.1 and elevation.max() > elevation.min() + 0.1
    middle = rays_d.reshape(2, 3, 6, 6, 3)[:, :, 2:4, 2:4].mean((2, 3))
    assert (np.sum(middle * unit, -1) < -0.99).all()  # it looks at the object

    assert len(set(t.ravel())) == 1 and facts["t"] == t[0, 0]
    alpha_bar = ALPHAS[int(t[0, 0])]
    clean = (2.0 * np.asarray(rgb, np.float64) - 1.0).reshape(2, 3, 6, 6, 3) * 0.25
    noise = (z_t[:2] - np.sqrt(alpha_bar) * clean) / np.sqrt(1 - alpha_bar)
    np.testing.assert_array_equal(z_t[:2], z_t[2:])
    assert abs(noise.mean()) < 0.2 and noise.std() == pytest.approx(1.0, abs=0.15)
    assert np.abs(np.corrcoef(noise.reshape(6, -1)) - np.eye(6)).max() < 0.4  # views of their own
    np.testing.assert_allclose(found["guidance"], 0.5 * np.sum(clean**2) / 6, rtol=1e-4)
    assert set(found) == {"guidance"}
    assert facts["opacity"] == pytest.approx(0.3) and facts["wanted_samples"] == 0.5


def test_posterior_noise_and_diffusion_noise_have_nothing_in_common(cfg, scene):
    """Where the posterior is as wide as one; its noise is read from the slope of each pixel."""
    rgb, drawn = pixels(), []
    iteration = distil(cfg, scene, logvar=0.0)
    slopes = jax.jit(jax.grad(lambda rgb, key: iteration(rgb, key, 0)[0][0]["guidance"]))
    for key in (0, 1):
        asked, slope = iteration(rgb, key, 0)[1], slopes(rgb, key)
        z_t, t = np.asarray(asked[0][:2], np.float64), int(asked[1][0, 0])
        latents = np.asarray(slope, np.float64).reshape(2, 3, 6, 6, 3) * 6 / (2 * 0.25)
        clean = (2.0 * np.asarray(rgb, np.float64) - 1.0).reshape(2, 3, 6, 6, 3)
        posterior = latents / 0.25 - clean
        noise = (z_t - np.sqrt(ALPHAS[t]) * latents) / np.sqrt(1 - ALPHAS[t])
        assert posterior.std() == pytest.approx(1.0, abs=0.1)
        assert noise.std() == pytest.approx(1.0, abs=0.1)
        drawn += [*posterior.reshape(6, -1), *noise.reshape(6, -1)]
    apart = np.corrcoef(drawn) - np.eye(24)  # of two iterations, both kinds, every view
    assert np.abs(apart).max() < 0.4 and np.abs(apart).mean() < 0.1


def test_every_purpose_has_a_key_of_its_own(cfg, scene, monkeypatch):
    cfg.shading.update(start_step=0, probability=1.0)
    cfg.loss.reference_l2 = 1.0
    given = {}

    def keep(module, name, place):
        true = getattr(module, name)

        def wrapped(*args, **kwargs):
            given.setdefault(f"{module.__name__} {name}", []).append(args[place])
            return true(*args, **kwargs)

        monkeypatch.setattr(module, name, wrapped)

    def reference(params, denoiser, key, *rest):
        given["reference"] = [key]
        return jnp.float32(3.0), jnp.array([0.2, 0.7])

    monkeypatch.setattr(losses, "reference_loss", reference)
    for module, name, place in (
        (camera_sets, "sample_cameras", 0), (losses, "encode", 2), (losses, "draw_timestep", 0),
        (shading, "draw", 0), (jax.random, "normal", 0),
    ):  # fmt: skip
        keep(module, name, place)
    iteration = distil(cfg, scene).__wrapped__

    @jax.jit
    def keys(rgb, key):
        found = iteration(rgb, key, 0)[0]
        return found, jax.tree.map(jax.random.key_data, given | {"scene": list(scene.seen[0])})

    (found, facts), used = keys(pixels(), 0)
    numbers = [tuple(np.asarray(k).tolist()) for name in used for k in used[name]]
    # cameras, samples, normals, posterior (twice: `encode` draws with it), timestep, noise, light,
    # the light's noise, the reference's
    assert len(numbers) == 10 and len(set(numbers)) == 9, used
    assert tuple(np.asarray(jax.random.key_data(jax.random.key(0))).tolist()) not in numbers
    assert found["reference_l2"] == 3.0
    np.testing.assert_allclose([facts[name] for name in losses.WANTED], [0.5, 0.7])


def test_colours_land_on_the_side_that_the_denoiser_means(cfg, scene):
    """A denoiser that is sure of a colour for each azimuth; scenes of just these colours.

    What it means by an azimuth is read from its camera as `mvdream` defines it.
    """

    def colour(azimuth, elevation):
        waves = [jnp.cos(azimuth), jnp.sin(azimuth), jnp.sin(2 * azimuth) + 2 * elevation]
        return 0.5 + 0.2 * jnp.stack(waves, -1)

    def x0(camera, context):  # its camera stands on (sin a, -cos a) in the denoiser's frame
        azimuth = jnp.arctan2(camera[..., 3], -camera[..., 7])
        meant = colour(azimuth, jnp.arcsin(camera[..., 11]))
        return (2 * meant - 1)[:, :, None, None] * SPEC.scale_factor

    def seen_from(turn, mirror=1.0):
        def rgb(rays):
            x, y, z = rays[0].T
            azimuth = mirror * jnp.arctan2(y, x) + turn
            return colour(azimuth, jnp.arcsin(z / jnp.linalg.norm(rays[0], axis=-1)))

        return rgb

    @jax.jit
    def guidance(key):
        wrong = [seen_from(0.2), seen_from(np.pi / 2), seen_from(np.pi), seen_from(0.0, -1.0)]
        return [
            distil(cfg, scene, x0).__wrapped__(rgb, key, 0)[0][0]["guidance"]
            for rgb in (seen_from(0.0), *wrong)
        ]

    for key in range(3):
        right, *wrong = guidance(key)
        assert right < 1e-6 and min(wrong) > 0.01, (right, wrong)


def test_renders_are_brought_to_the_size_of_the_denoiser_s_pictures(cfg, scene):
    """Bilinear without blur: of every second pair of pixels the mean."""
    cfg.phases = ((12, 12, 2), (20, 3, 2))
    for phase, size in ((0, 12), (1, 3)):
        rgb = pixels(size=size)
        _, asked, _ = distil(cfg, scene, phase=phase)(rgb, 0, 5)
        z_t, t = np.asarray(asked[0][:2], np.float64), int(asked[1][0, 0])
        picture = np.asarray(rgb, np.float64).reshape(6, size, size, 3)
        if size == 12:
            want = (picture[:, ::2] + picture[:, 1::2]) / 2
            want = (want[:, :, ::2] + want[:, :, 1::2]) / 2
        else:  # pixel centres at quarters of those of the render, held at its border
            at = np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)
            low, share = np.minimum(at.astype(int), 1), at - np.minimum(at.astype(int), 1)
            matrix = np.eye(3)[low] * (1 - share)[:, None] + np.eye(3)[low + 1] * share[:, None]
            want = np.einsum("ai,bj,nijc->nabc", matrix, matrix, picture)
        clean = 0.25 * (2 * want - 1).reshape(2, 3, 6, 6, 3)
        noise = (z_t - np.sqrt(ALPHAS[t]) * clean) / np.sqrt(1 - ALPHAS[t])
        loss = distil(cfg, scene, phase=phase)(rgb, 0, 5)[0][0]["guidance"]
        np.testing.assert_allclose(loss, 0.5 * np.sum(clean**2) / 6, rtol=1e-3)
        assert noise.std() == pytest.approx(1.0, abs=0.15)


def test_guidance_has_the_config_s_numbers(cfg, scene):
    """What the embedding adds, times the scale, partly rescaled; of latents and of noise."""
    pattern = np.random.default_rng(5).normal(size=(6, 6, 3))
    cfg.guidance.update(scale=3.0, rescale=0.25, low=(0, 0.2, 0.4, 10), high=(0, 0.3, 0.9, 10))
    rgb = pixels()

    def x0(camera, context):
        return jnp.mean(context, (1, 2))[:, None, None, None, None] * jnp.asarray(pattern)

    timesteps = {0: [], 5: []}
    for kind in ("x0", "sds"):
        cfg.guidance.loss = kind
        iteration = distil(cfg, scene, x0)
        for key, step in ((0, 0), (1, 0), (2, 0), (0, 5), (1, 5), (2, 5)):
            (found, _), asked, _ = iteration(rgb, key, step)
            z_t, t = np.asarray(asked[0][:2], np.float64), int(asked[1][0, 0])
            timesteps[step].append(t)
            signal, sigma = np.sqrt(ALPHAS[t]), np.sqrt(1 - ALPHAS[t])
            clean = 0.25 * (2 * np.asarray(rgb, np.float64) - 1).reshape(2, 3, 6, 6, 3)
            guided = 3.0 * 1.5 * pattern
            if kind == "x0":
                away = clean - guided * (0.25 / 3.0 + 0.75)
            else:
                noise = (z_t - signal * clean) / sigma
                away = sigma**2 * ((z_t - signal * guided) / sigma - noise)
            np.testing.assert_allclose(found["guidance"], 0.5 * np.sum(away**2) / 6, rtol=2e-3)
    for step, (first, last) in ((0, (200, 300)), (5, (300, 600))):
        assert first <= min(timesteps[step]) < max(timesteps[step]) <= last, timesteps
