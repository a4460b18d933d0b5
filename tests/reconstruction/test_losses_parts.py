"""Parts of an iteration's losses: latents, masks, light, what rays say of the scene, a draft's."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion import schedule
from iso3d_jax.nerf import occupancy, render
from iso3d_jax.reconstruction import losses
from iso3d_jax.reconstruction.losses import Denoiser, DenoiserSpec, Pictures
from iso3d_jax.reconstruction.spec import make_spec
from tests.formulas import use

WHOLE = occupancy.Grid(jnp.ones(8, bool), jnp.float32(0.0))


class Blocks:
    """An autoencoder of 2x2 blocks, asymmetric in rows, columns and channels; in bfloat16."""

    def encode(self, x):
        n, h, w, c = x.shape
        mean = x.reshape(n, h // 2, 2, w // 2, 2, c)[:, :, 0, :, 1] * jnp.array([1.0, 2.0, 3.0])
        logvar = 2 * jnp.log(jnp.full_like(mean, 0.5)).at[:, 0].set(50.0).at[:, -1].set(-99.0)
        return mean.astype(jnp.bfloat16), logvar.astype(jnp.bfloat16)


@pytest.mark.same_keys
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_latents_are_a_scaled_sample_of_the_posterior(memory):
    """Pixels in [-1, 1], a deviation of one half, the noise of the key; both ways of memory."""
    images = jnp.asarray(np.random.default_rng(0).random((3, 6, 4, 3)), jnp.float32)
    key = jax.random.key(4)
    latents = jax.jit(lambda x: losses.encode(Blocks(), x, key, 0.25, memory))(images)
    assert latents.shape == (3, 3, 2, 3) and latents.dtype == jnp.float32
    picked = np.asarray(images, np.float64)[:, ::2, 1::2]
    mean = (2 * picked - 1) * np.array([1.0, 2.0, 3.0])
    noise = (np.asarray(latents, np.float64) / 0.25 - mean)[:, 1] / 0.5
    want = np.asarray(jax.random.normal(key, latents.shape))[:, 1]
    np.testing.assert_allclose(noise, want, atol=0.02)  # the mean is rounded
    np.testing.assert_allclose(latents[:, -1], 0.25 * mean[:, -1], atol=5e-3)  # at least -30
    huge = np.abs(latents[:, 0] / np.asarray(jax.random.normal(key, latents.shape))[:, 0])
    np.testing.assert_allclose(huge, 0.25 * np.exp(10.0), rtol=5e-2)  # and at most 20
    slope = jax.grad(lambda x: jnp.sum(losses.encode(Blocks(), x, key, 0.25, memory)))(images)
    want = np.zeros((3, 6, 4, 3))
    want[:, ::2, 1::2] = 0.5 * np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(slope, want, rtol=1e-2)


def test_masks_by_hand():
    image = jnp.array([[1.0, 1.0, 1.0], [1.0, 0.93, 1.0], [0.2, 1.0, 1.0], [0.98, 0.99, 1.0]])
    np.testing.assert_allclose(losses.white_mask(image), [0, 0.5, 1, 0], atol=1e-5)
    np.testing.assert_allclose(losses.white_mask(image, 0.0, 0.14), [0, 0.5, 1, 1 / 7], atol=1e-5)


def test_which_weights_are_ever_other_than_zero():
    for weight, want in ((0, False), (0.0, False), (0.5, True), ((5, 0.0, 0.0, 9), False),
                         ((0, 0.0, 1.0, 9), True), ((0, 2.0, 0.0, 9), True)):  # fmt: skip
        assert losses.active(weight) == want, weight


@pytest.fixture
def formulas(monkeypatch):
    """Fog that is denser where y grows, with one normal everywhere."""

    def density(params, x, spec):
        return params["solid"] * (2.0 + x[:, 1])

    use(monkeypatch, density, lambda x: jnp.full_like(x, 0.5), [0.6, 0.0, 0.8])
    return {"solid": jnp.float32(0.7)}


def seen(cfg, params, weight, normals):
    """(rgb, opacity), scalars of ten rays through the box, of which three miss it."""
    cfg.render.update(step_size=0.05, bound="box", candidates=60.0, samples=60.0, normals=normals,
                      alpha_threshold=0.0, early_stop=0.0)  # fmt: skip
    rng = np.random.default_rng(0)
    rays_o = rng.uniform(-0.5, 0.5, (10, 3)) + np.array([0, 0, -3.0])
    rays_d = np.tile([0.0, 0.0, 1.0], (10, 1))
    rays_d[5:] = [0.28, 0.0, 0.96]
    rays_d[8:] = [0.0, 0.0, -1.0]
    rays_o[0, 0] = 4.0
    keys = tuple(jax.random.split(jax.random.key(3)))
    frozen = make_spec(cfg)
    rays = jnp.asarray(rays_o, jnp.float32), jnp.asarray(rays_d, jnp.float32)
    fn = jax.jit(
        lambda p: losses._scene(keys, (p, WHOLE, None, None), rays, spec=frozen, weight=weight)
    )
    return fn(params), np.maximum(rays_d @ np.array([0.6, 0, 0.8]), 0) ** 2


def test_what_rays_say_of_the_scene(small_config, formulas):
    """The mean opacity, the rays that hit, and normals that face away, weighed by what is seen."""
    weight = types.SimpleNamespace(orientation=1.0, sparsity=1.0, opaque=1.0)
    ((rgb, opacity), scalars), away = seen(small_config, formulas, weight, 60.0)
    opacity = np.asarray(opacity, np.float64)
    assert (opacity[[0, 8, 9]] == 0).all() and opacity[1:8].min() > 0.5
    np.testing.assert_allclose(rgb[0], 1.0)
    assert scalars["hit"] == 7.0
    np.testing.assert_allclose(scalars["opacity"], opacity.mean(), rtol=1e-5)
    np.testing.assert_allclose(scalars["orientation"], opacity @ away, rtol=1e-4)
    np.testing.assert_allclose(scalars["sparsity"], np.mean(np.sqrt(opacity**2 + 0.01)), rtol=1e-4)
    held = np.clip(opacity, 1e-3, 1 - 1e-3)
    entropy = -held * np.log(held) - (1 - held) * np.log(1 - held)
    np.testing.assert_allclose(scalars["opaque"], entropy.mean(), rtol=1e-4)
    np.testing.assert_allclose([scalars[name] for name in losses.WANTED], [0.47, 0.47], atol=0.03)
    # fewer normals than samples: each stands for several
    (_, fewer), _ = seen(small_config, formulas, weight, 6.0)
    np.testing.assert_allclose(fewer["orientation"], scalars["orientation"], rtol=0.1)
    assert fewer["orientation"] != scalars["orientation"]
    nothing = types.SimpleNamespace(orientation=(5, 0.0, 0.0, 9), sparsity=0.0, opaque=0)
    (_, plain), _ = seen(small_config, formulas, nothing, 60.0)
    assert set(plain) == {"opacity", *losses.WANTED}


def test_shares_of_the_rays_are_put_together():
    scalars = {
        "opacity": jnp.array([0.2, 0.6]), "wanted_candidates": jnp.array([0.3, 1.2]),
        "wanted_samples": jnp.array([0.9, 0.1]), "orientation": jnp.array([3.0, 5.0]),
        "hit": jnp.array([6.0, 10.0]), "sparsity": jnp.array([0.2, 0.4]),
    }  # fmt: skip
    found, facts = losses._losses_on_scene(scalars)
    assert set(found) == {"orientation", "sparsity"}
    assert found["orientation"] == 0.5 and found["sparsity"] == pytest.approx(0.3)
    assert facts["opacity"] == pytest.approx(0.4)
    assert facts["wanted_candidates"] == np.float32(1.2)
    assert facts["wanted_samples"] == np.float32(0.9) and len(scalars) == 6  # not taken apart


class Context:
    """A denoiser that makes something of the embedding beforehand."""

    def fold_context(self, both):
        return both * 2.0

    def __call__(self, z_t, t, context, camera):
        return z_t + jnp.mean(context, (1, 2))[:, None, None, None, None]


def small_denoiser(unet, **changes):
    alphas = jnp.asarray(schedule.make_schedule())
    return Denoiser(unet, Blocks(), jnp.full((1, 2, 3), 5.0), alphas, **changes)


def test_what_is_made_of_the_embedding_has_the_rows_without_it_first():
    denoiser = small_denoiser(Context())
    folded = losses.fold(denoiser, 3).folded
    np.testing.assert_array_equal(
        folded, np.repeat([0.0, 10.0], 3)[:, None, None] * np.ones((2, 3))
    )
    plain = small_denoiser(lambda *inputs: inputs[0])
    assert losses.fold(plain, 3) is plain


@pytest.mark.parametrize("start", [0, 12, 11, 20])
def test_light_reaches_the_rays_of_its_view_where_shading_has_begun(
    small_config, monkeypatch, start
):
    """A phase that ends before the shading starts has none; light is near the view's own camera."""
    cfg = small_config
    cfg.views, cfg.phases = 3, ((12, 4, 2), (20, 4, 2))
    cfg.shading.update(start_step=start, probability=1.0)
    cfg.camera.update(distance=(30.0, 40.0))
    kept = {}

    def scene(keys, shared, rays, *, spec, weight):
        kept.update(shared=shared[2:], rays=rays)
        zero = dict.fromkeys(("opacity", *losses.WANTED), jnp.zeros(1))
        return (0.0 * rays[0], 0.0 * rays[0][:, 0]), zero

    monkeypatch.setattr(losses, "_scene", scene)
    spec = DenoiserSpec(4, 1.0, "v", "mvdream")

    @jax.jit
    def iteration(key):
        losses.sds_losses(
            {}, small_denoiser(lambda z_t, *rest: z_t), key, jnp.int32(15), WHOLE,
            spec=make_spec(cfg), denoiser_spec=spec, phase=0,
        )  # fmt: skip
        return kept["rays"], [x for x in kept["shared"] if x is not None]

    rays, light = iteration(jax.random.key(0))
    lit = start < 12
    assert len(rays) == 2 + lit and len(light) == 2 * lit
    if lit:
        assert int(light[0]) in (1, 2) and 0 <= float(light[1]) <= 1
        position, source = (np.asarray(x, np.float64).reshape(6, 16, 3) for x in (rays[0], rays[2]))
        assert (source == source[:, :1]).all()  # every ray of a view has the view's light
        towards = source[:, 0] / np.linalg.norm(source[:, 0], axis=-1, keepdims=True)
        camera = position[:, 0] / np.linalg.norm(position[:, 0], axis=-1, keepdims=True)
        assert (np.sum(towards * camera, -1) > 0.98).all()


def test_a_draft_compares_each_ray_with_its_own_pixel(small_config, monkeypatch):
    """Rays carry their number; so do the colours and masks that were seen along them."""
    cfg = small_config
    cfg.mode = "views"
    cfg.draft.rays = 64
    number = jnp.arange(500.0)
    none = 0 * number
    pictures = Pictures(
        jnp.stack([number, none, none], -1), jnp.stack([none, number, number], -1),
        jnp.stack([number, number**2 / 500, 500 - number], -1) / 500, 0.1 + number / 1000,
        jnp.ones((2, 2, 2)),
    )  # fmt: skip
    kept = {}

    def scene(keys, shared, rays, *, spec, weight):
        assert weight == make_spec(cfg).draft and shared[2:] == (None, None)
        kept.update(number=rays[0][:, 0], other=rays[1][:, 1], keys=keys)
        zero = dict.fromkeys(("opacity", *losses.WANTED), jnp.zeros(1))
        return (jnp.full((64, 3), shared[0]), jnp.full(64, 0.3)), zero | {"sparsity": jnp.ones(1)}

    def hull(params, hull, key, spec, *, points, step_size):
        kept.update(hull=key)
        return jnp.float32(points * 1000 + step_size) + params * jnp.sum(hull)

    monkeypatch.setattr(losses, "_scene", scene)
    monkeypatch.setattr(losses, "hull_loss", hull)

    @jax.jit
    def iteration(key, pictures):
        found, facts = losses.views_losses(
            jnp.float32(0.25), pictures, jax.random.key(key), jnp.int32(0), WHOLE,
            spec=make_spec(cfg), denoiser_spec=DenoiserSpec(4, 1.0, "v", "mvdream"), phase=0,
        )  # fmt: skip
        return found, kept | {"keys": jax.tree.map(jax.random.key_data, [*kept["keys"],
                                                                       kept["hull"]])}  # fmt: skip

    drawn = []
    for key in (0, 1):
        found, rays = iteration(key, pictures)
        n = np.asarray(rays["number"], np.float64)
        np.testing.assert_array_equal(rays["other"], n)
        assert n.min() < 60 and n.max() > 440 and len(set(n)) > 50
        rgb = np.stack([n, n**2 / 500, 500 - n], -1) / 500
        np.testing.assert_allclose(found["photometric"], np.mean((rgb - 0.25) ** 2), rtol=1e-4)
        mask = 0.1 + n / 1000
        want = -np.mean(mask * np.log(0.3) + (1 - mask) * np.log(0.7))
        np.testing.assert_allclose(found["mask"], want, rtol=1e-4)
        np.testing.assert_allclose(found["hull"], 64_002.0 + cfg.render.step_size, rtol=1e-6)
        assert set(found) == {"photometric", "mask", "hull", "sparsity"}
        keys = {tuple(np.asarray(k).tolist()) for k in rays["keys"]}
        assert len(keys) == 3 and tuple(np.asarray(jax.random.key_data(jax.random.key(key)))
                                        .tolist()) not in keys  # fmt: skip
        drawn.append(n)
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.4
    assert "hull" not in jax.eval_shape(iteration, 5, pictures._replace(hull=None))[0]


def test_the_reference_view_is_the_picture_s_own_side(small_config, monkeypatch):
    """Azimuth 0 at the elevation, distance and field of view that the config names."""
    cfg = small_config
    cfg.reference.update(elevation_deg=25.0, fov_deg=50.0, distance=1.5, mask=0.25)
    rng = np.random.default_rng(0)
    picture = jnp.asarray(rng.random((4, 4, 3)), jnp.float32)
    mask = jnp.asarray(rng.random((4, 4)), jnp.float32)
    rgb, opacity = rng.random((4, 3)), rng.random(4)
    kept = []

    def draw(key, params, rays_o, rays_d, grid, spec, field_spec):
        kept.append((key, rays_o, rays_d))
        values = jnp.asarray(rgb, jnp.float32), jnp.asarray(opacity, jnp.float32)
        return render.Rendering(*values, values[1], jnp.array([0.25, 0.5])), None, None

    monkeypatch.setattr(render, "render", draw)
    denoiser = small_denoiser(None, picture=picture, mask=mask)
    key = jax.random.key(2)
    loss, wanted = losses.reference_loss({}, denoiser, key, WHOLE, 2, make_spec(cfg))
    _, rays_o, rays_d = kept[0]
    assert kept[0][0] is key and rays_d.shape == (4, 3)
    distance = 1.5 / np.tan(np.radians(25.0))
    e = np.radians(25.0)
    place = distance * np.array([np.cos(e), 0.0, np.sin(e)])
    np.testing.assert_allclose(rays_o, np.tile(place, (4, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(wanted, [0.25, 0.5])

    def halved(x):  # to 2 x 2, with the triangle that keeps what would alias out
        weights = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7.0
        return np.einsum("ai,bj,ij...->ab...", weights, weights, np.asarray(x, np.float64))

    want = np.mean((rgb - halved(picture).reshape(4, 3)) ** 2)
    want += 0.25 * np.mean((opacity - halved(mask).reshape(4)) ** 2)
    np.testing.assert_allclose(loss, want, rtol=1e-4)
    for lacking in ("picture", "mask"):
        with pytest.raises(ValueError, match="needs a Denoiser"):
            losses.reference_loss(
                {}, denoiser._replace(**{lacking: None}), key, WHOLE, 2, make_spec(cfg)
            )
