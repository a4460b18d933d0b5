"""The sampling loop: seeds, batches, cameras, guidance, and how often it compiles."""

import dataclasses

import jax
import numpy as np
import pytest

from iso3d_jax import sampling
from iso3d_jax.core.errors import UserError
from iso3d_jax.diffusion import ddim
from iso3d_jax.evaluation.views import ViewTask, generate
from iso3d_jax.geometry import cameras
from iso3d_jax.reconstruction.run import make_denoiser
from iso3d_jax.training.one_step_x0 import Probe
from iso3d_jax.weights.model_spec import ModelSpec


@pytest.fixture(scope="module")
def pictures():
    """Two prepared pictures that differ."""
    y, x = np.mgrid[0:1:64j, 0:1:64j].astype(np.float32)
    return [np.stack([x, y, 0 * x], -1), np.stack([1 - y, x * y, y], -1)]


def test_shape_range_and_seed(random_model, pictures):
    first = sampling.sample_views(random_model, pictures[:1], steps=4, seed=3)
    again = sampling.sample_views(random_model, pictures[:1], steps=4, seed=3)
    other = sampling.sample_views(random_model, pictures[:1], steps=4, seed=4)
    assert first.shape == (1, 4, 64, 64, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_a_picture_gets_the_same_views_alone_and_in_a_batch(random_model, pictures):
    both = sampling.sample_views(random_model, pictures, steps=4)
    for k, picture in enumerate(pictures):
        alone = sampling.sample_views(random_model, [picture], steps=4)
        np.testing.assert_allclose(both[k], alone[0], atol=2e-3)
    assert np.abs(both[0] - both[1]).max() > 0.01


def test_is_the_plain_loop_with_both_branches_apart(random_model, pictures):
    """The compiled program against a Python loop that runs the two branches one by one."""
    model, steps, scale, eta = random_model, 4, 3.0, 0.5
    context = sampling.embed_pictures(model, pictures[0][None])
    camera = sampling.camera_conditions("mvdream", 4, 20.0, 45.0)
    got = sampling.sample_latents(
        model.unet, context, camera, model.alphas_cumprod, jax.random.key(5), scale, eta,
        latent_shape=(8, 8, 8), steps=steps, parameterization="v", temperature=0.6,
    )  # fmt: skip

    unet = jax.jit(model.unet)
    start_key, loop_key = jax.random.split(jax.random.key(5))
    z = jax.random.normal(start_key, (1, 4, 8, 8, 8))
    alpha_bars = np.asarray(model.alphas_cumprod, np.float64)
    for t, step_key in zip([751, 501, 251, 1], jax.random.split(loop_key, steps), strict=True):
        times = np.full((1, 4), t)
        cond = unet(z, times, context, camera[None])
        uncond = unet(z, times, 0 * context, camera[None])
        v = np.asarray(uncond + scale * (cond - uncond), np.float64)
        a, a_prev = alpha_bars[t], alpha_bars[max(t - 250, 0)]
        x0 = np.sqrt(a) * z - np.sqrt(1 - a) * v
        eps = np.sqrt(1 - a) * z + np.sqrt(a) * v
        sigma = eta * np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
        noise = 0.6 * np.asarray(jax.random.normal(step_key, z.shape))
        z = np.sqrt(a_prev) * x0 + np.sqrt(1 - a_prev - sigma**2) * eps + sigma * noise
        z = np.asarray(z, np.float32)
    np.testing.assert_allclose(got, z, rtol=2e-3, atol=2e-3)


def test_guidance_of_zero_ignores_the_picture(random_model, pictures):
    views = sampling.sample_views(random_model, pictures, steps=4, guidance_scale=0.0)
    np.testing.assert_allclose(views[0], views[1], atol=1e-4)


def test_views_go_round_counter_clockwise_from_the_given_azimuth():
    got = sampling.camera_conditions("mvdream", 4, 15.0, 30.0)
    want = cameras.camera_condition(np.full(4, 15.0), np.array([30.0, 120, 210, 300]), "mvdream")
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize(
    "said, sampled_with, trained_with",
    [
        # the released file's, a model's that was tuned from it, MVDream's, a 2-D base's
        (
            dict(camera_encoding="isotropic3d", sampling_camera_encoding="isotropic3d_sampling"),
            "isotropic3d_sampling",
            "isotropic3d",
        ),
        (dict(camera_encoding="isotropic3d"), "isotropic3d", "isotropic3d"),
        (dict(camera_encoding="mvdream"), "mvdream", "mvdream"),
        (dict(camera_encoding="harmonics_lens"), "harmonics_lens", "harmonics_lens"),
        ({}, "mvdream", "mvdream"),
    ],
)
def test_a_model_is_sampled_with_the_cameras_that_it_says(
    random_model, pictures, monkeypatch, said, sampled_with, trained_with
):
    """Wherever views are drawn; what it was trained with is what guidance and the table use."""
    config = {k: v for k, v in random_model.config.to_dict().items() if "camera" not in k} | said
    model = dataclasses.replace(random_model, config=ModelSpec.read(config))
    seen = []

    def sample_latents(unet, context, camera, *args, **kwargs):
        seen.append(np.asarray(camera))
        return np.zeros((1, 4, 8, 8, 8), np.float32)

    monkeypatch.setattr(sampling, "sample_latents", sample_latents)
    monkeypatch.setattr(sampling, "decode_views", lambda vae, z: np.zeros((1, 4, 64, 64, 3)))
    azimuths, elevations = np.array([0.0, 90, 180, 270]), np.full(4, 15.0)
    lens = np.full((1, 4), 40.0), np.full((1, 4), cameras.distance_of(40.0, 1.075))
    task = ViewTask(
        ["a"], np.stack(pictures[:1]), azimuths[None], elevations[None], None, "", *lens
    )
    sampling.sample_views(model, pictures[:1], steps=1)
    generate(model, task, steps=1)
    lens = [column[0] for column in lens]
    want = cameras.camera_condition(elevations, azimuths, sampled_with, *lens)
    assert len(seen) == 2
    for got in seen:  # jax's sine and numpy's
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    probe = Probe(
        None, None, azimuths[None], elevations[None], *(column[None] for column in lens),
        model.config,
    )  # fmt: skip
    plain = cameras.camera_condition(elevations, azimuths, trained_with, *lens)
    np.testing.assert_allclose(probe.cameras()[0], plain, rtol=1e-6, atol=1e-7)
    assert make_denoiser(model, pictures[0])[1].camera_encoding == trained_with


def test_a_model_that_names_no_known_cameras_is_refused():
    with pytest.raises(UserError, match="camera_encoding is 'mvdraem', which is none of mvdream"):
        _ = ModelSpec(camera_encoding="mvdraem").sampling_cameras


def test_other_pictures_seeds_and_scales_do_not_compile_again(random_model, pictures):
    sampling.sample_views(random_model, pictures[:1], steps=4)
    before = sampling.sample_latents._cache_size()
    sampling.sample_views(
        random_model, pictures[1:], steps=4, seed=9, guidance_scale=2.5, eta=0.0,
        elevation_deg=5.0, azimuth_deg=10.0,
    )  # fmt: skip
    assert sampling.sample_latents._cache_size() == before


def test_steps_are_those_of_the_released_script():
    assert list(ddim.timesteps(50)[[0, 1, -1]]) == [981, 961, 1]


@pytest.mark.parametrize("bad", [(0, 15, 50), (65, 15, 50), (4, 90, 50), (4, 15, 0), (4, 15, 1000)])
def test_senseless_numbers_are_refused(bad):
    with pytest.raises(UserError, match="between"):
        sampling.check_options(*bad)


def test_a_models_own_settings_come_after_what_is_given(random_model):
    config = dataclasses.replace(random_model.config, steps=4, spacing="trailing")
    used = sampling.settings(config, steps=None, eta=0.0)
    assert (used["steps"], used["spacing"], used["eta"]) == (4, "trailing", 0.0)
    assert used["guidance_scale"] == config.guidance_scale and used["temperature"] == 1.0
    assert sampling.settings(config, steps=7)["steps"] == 7
    plain = sampling.settings(random_model.config)
    assert (plain["steps"], plain["spacing"], plain["latent_shape"]) == (50, "leading", (8, 8, 8))


def test_a_look_comes_between_the_models_own_settings_and_what_is_given(random_model):
    config = dataclasses.replace(random_model.config, steps=2, temperature=0.0, spacing="trailing")
    sharp = sampling.settings(config, "sharp")
    assert (sharp["steps"], sharp["temperature"], sharp["eta"]) == (25, 1.0, 1.0)
    assert sharp["spacing"] == "trailing"
    assert sharp["guidance_scale"] == sampling.settings(config)["guidance_scale"]
    assert sampling.settings(config, "own")["steps"] == 2
    assert sampling.settings(config, "sharp", steps=9)["steps"] == 9
    with pytest.raises(UserError, match="look 'blurred' is not one of own, sharp"):
        sampling.settings(config, "blurred")


def test_what_is_asked_for_reaches_the_loop(random_model, pictures, monkeypatch):
    """Every option of `sample_views`, and the released script's 15 degrees and four views."""
    seen = {}

    def sample_latents(unet, context, camera, alphas, key, **options):
        seen.update(options, context=context, camera=camera, key=key, alphas=alphas, unet=unet)
        return np.full((len(context), len(camera), 8, 8, 8), 3.0, np.float32)

    monkeypatch.setattr(sampling, "sample_latents", sample_latents)
    monkeypatch.setattr(sampling, "decode_views", lambda vae, z: z)
    latents = sampling.sample_views(
        random_model, pictures, num_views=3, elevation_deg=-20.0, azimuth_deg=40.0, steps=7,
        guidance_scale=2.0, eta=0.25, temperature=0.5, seed=11,
    )  # fmt: skip
    np.testing.assert_allclose(latents, 3.0 / 0.5)  # over the model's scale factor
    want = cameras.camera_condition(np.full(3, -20.0), np.array([40.0, 160, 280]), "mvdream")
    np.testing.assert_allclose(seen["camera"], want, rtol=1e-5, atol=1e-6)
    assert (
        jax.random.key_data(seen["key"]).tolist()
        == jax.random.key_data(jax.random.key(11)).tolist()
    )
    assert (seen["steps"], seen["guidance_scale"], seen["eta"]) == (7, 2.0, 0.25)
    assert (seen["temperature"], seen["spacing"]) == (0.5, "leading")
    assert (seen["latent_shape"], seen["parameterization"]) == ((8, 8, 8), "v")
    assert seen["context"].shape == (2, 1, 24)
    sampling.sample_views(random_model, pictures[:1])
    want = cameras.camera_condition(np.full(4, 15.0), np.arange(4) * 90.0, "mvdream")
    np.testing.assert_allclose(seen["camera"], want, rtol=1e-5, atol=1e-6)
    assert (seen["steps"], seen["guidance_scale"], seen["eta"]) == (50, 3.0, 1.0)


def test_views_are_the_decoders_pictures_brought_to_the_unit_range():
    """One decoder's row for every view, objects and views in order, clipped, in float32."""

    def decode(flat):  # [B*V, h, w, C] -> [B*V, h, w, 3]
        return flat[..., :3]

    z = np.linspace(-2, 2, 2 * 3 * 2 * 4 * 5).reshape(2, 3, 2, 4, 5)
    vae = type("Decoder", (), {"decode": staticmethod(decode)})()
    jax.tree_util.register_pytree_node(type(vae), lambda one: ((), None), lambda *_: vae)
    views = sampling.decode_views(vae, z.astype(np.float32))
    assert views.dtype == np.float32
    np.testing.assert_allclose(views, np.clip(z[..., :3] / 2 + 0.5, 0, 1), atol=1e-6)


def test_the_context_is_the_embedding_of_each_picture(random_model, pictures):
    context = sampling.embed_pictures(random_model, np.stack(pictures))
    assert context.shape == (2, 1, 24)
    embed = jax.jit(lambda clip, x: clip.embed(x))
    for k, picture in enumerate(pictures):
        alone = embed(random_model.clip, picture[None])
        np.testing.assert_allclose(context[k], alone, rtol=1e-4, atol=1e-4)


def test_the_bounds_themselves_are_allowed():
    for fine in [(1, 15, None), (64, -89.9, 1), (4, 89.9, 999)]:
        sampling.check_options(*fine)
    for bad in [(4, -90, 50), (65, 0, None)]:
        with pytest.raises(UserError, match="between"):
            sampling.check_options(*bad)
