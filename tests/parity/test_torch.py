"""The reference modules of diffusers and transformers in PyTorch, tiny and random, float32."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.diffusion import ddim, schedule
from iso3d_jax.models.clip import bicubic_matrix
from iso3d_jax.weights.bundle import load_model
from iso3d_jax.weights.exporting import export_diffusers, export_torch
from iso3d_jax.weights.importing import import_weights
from iso3d_jax.weights.tensors import open_tensors

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[torch]'")
pytestmark = pytest.mark.filterwarnings("default")  # other packages' warnings are theirs

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def nchw(x):
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def nhwc(x):
    return np.moveaxis(x.numpy(), 1, -1)


def convert(module, folder, **arch):
    """Saves a reference module as its package does, and loads it as ours."""
    module.save_pretrained(folder / "theirs")
    import_weights([str(folder / "theirs")], folder / "ours", arch)
    (name,) = {"unet", "vae", "clip"} & set(json.loads((folder / "ours/model.json").read_text()))
    return getattr(load_model(folder / "ours", networks=(name,)), name)


@pytest.fixture(scope="module")
def unets(tmp_path_factory):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    theirs = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=24,
        attention_head_dim=[2, 4], use_linear_projection=True,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    return theirs, convert(theirs, tmp_path_factory.mktemp("unet"))


@pytest.mark.parametrize("tokens", [7, 1])
def test_unet(unets, same, tokens):
    theirs, ours = unets
    assert ours.config.num_head_channels == 16 and ours.config.attention_resolutions == (1,)
    z_t, context = draw(2, 8, 8, 4), draw(2, tokens, 24, seed=1)
    t = np.array([3, 900], np.int32)
    out = jax.jit(lambda unet, *args: unet(*args))(
        ours, z_t[:, None], t[:, None], context, draw(2, 1, 16, seed=2)
    )
    expected = theirs(nchw(z_t), torch.from_numpy(t), torch.from_numpy(context)).sample
    same(f"diffusers' UNet2DConditionModel, {tokens} tokens", out[:, 0], nhwc(expected))


def test_autoencoder(tmp_path, same):
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    theirs = AutoencoderKL(
        block_out_channels=(32, 64), layers_per_block=1, latent_channels=4, norm_num_groups=16,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    ).eval()  # fmt: skip
    ours = convert(theirs, tmp_path)
    assert ours.config.num_groups == 16
    image, latent = draw(2, 16, 16, 3), draw(2, 8, 8, 4)
    posterior = theirs.encode(nchw(image)).latent_dist
    mean, logvar = jax.jit(lambda vae, x: vae.encode(x))(ours, image)
    same("diffusers' AutoencoderKL, mean", mean, nhwc(posterior.mean))
    same("diffusers' AutoencoderKL, log-variance", logvar, nhwc(posterior.logvar))
    decoded = jax.jit(lambda vae, z: vae.decode(z))(ours, latent)
    same("diffusers' AutoencoderKL, decoded", decoded, nhwc(theirs.decode(nchw(latent)).sample))


def test_image_tower(tmp_path, same):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(2)
    theirs = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=40, intermediate_size=120, projection_dim=24, num_hidden_layers=3,
            num_attention_heads=5, image_size=28, patch_size=7, hidden_act="gelu",
        )
    ).eval()  # fmt: skip
    ours = convert(theirs, tmp_path)
    assert ours.config.mlp_ratio == 3.0 and ours.config.heads == 5
    pixels = draw(2, 28, 28, 3)
    expected = theirs(pixel_values=nchw(pixels)).image_embeds.numpy()
    same("transformers' CLIP tower", jax.jit(lambda clip, x: clip(x))(ours, pixels), expected)


@pytest.mark.parametrize("sizes", [(256, 224), (17, 31), (64, 64), (5, 224)])
def test_bicubic(same, sizes):
    size_in, size_out = sizes
    x = draw(1, 3, size_in, size_in)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x), (size_out, size_out), mode="bicubic", align_corners=True
    )
    matrix = bicubic_matrix(size_in, size_out).astype(np.float64)
    ours = matrix @ x @ matrix.T  # [1, 3, size_out, size_out]
    # PyTorch's own weights are float32, with positions of up to 255.
    same(f"torch's bicubic, {size_in} to {size_out}", ours, expected, 1e-4)


@pytest.mark.parametrize("parameterization", ["eps", "v"])
@pytest.mark.parametrize("eta, steps", [(0.0, 50), (1.0, 10), (0.5, 7)])
def test_ddim_scheduler(same, monkeypatch, eta, steps, parameterization):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[parameterization],
    )  # fmt: skip
    theirs.set_timesteps(steps)
    np.testing.assert_array_equal(ddim.timesteps(steps), theirs.timesteps)
    start, noise = draw(1, 2, 3, 3, 4), draw(steps, 1, 2, 3, 3, 4, seed=1)

    def network(z, t):  # any function of both will do
        return z * 0.3 - z[..., ::-1] * (0.0007 * t)

    z = start
    for step, t in enumerate(theirs.timesteps.tolist()):
        z = theirs.step(
            torch.from_numpy(network(z, t).copy()), t, torch.from_numpy(z), eta=eta,
            variance_noise=torch.from_numpy(noise[step]),
        ).prev_sample.numpy()  # fmt: skip
    monkeypatch.setattr(jax.random, "split", lambda key, steps: key)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: key)
    ours = jax.jit(
        lambda z, noise, alphas: ddim.sample(
            network, z, noise, alphas, steps=steps, eta=eta, parameterization=parameterization
        )
    )(jnp.asarray(start), noise, schedule.make_schedule())
    same(f"DDIMScheduler, {parameterization}, eta {eta}, {steps} steps", ours, z, 1e-4)


@pytest.fixture(scope="module")
def golden_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    arch = json.loads((GOLDEN / "config.json").read_text())
    import_weights([str(GOLDEN / "isotropic3d_tiny_fp16.ckpt")], folder, arch)
    return folder


def test_torch_loads_what_is_written(golden_model, tmp_path):
    export_torch(golden_model, tmp_path / "back.ckpt")
    expected = torch.load(GOLDEN / "isotropic3d_tiny_fp16.ckpt", weights_only=True)
    for mapped in (False, True):
        content = torch.load(tmp_path / "back.ckpt", weights_only=True, mmap=mapped)
        assert content.keys() == expected.keys()
        for key, value in expected.items():
            assert content[key].dtype == torch.float32 and content[key].is_contiguous()
            assert torch.equal(content[key], value.float()), key


def test_what_torch_saves_is_read(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "plain": base.clone(),
        "parameter": torch.nn.Parameter(base.clone()),
        "transposed": base.T,
        "part": base[1:3, ::2],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "integers": torch.arange(3),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    torch.save({"state_dict": content, "epoch": 3, "lr": [0.1]}, tmp_path / "x.pt")
    tensors = open_tensors(tmp_path / "x.pt")
    assert tensors.keys() == content.keys()
    for key, value in content.items():
        ours = tensors[key].read()
        assert ours.shape == tuple(value.shape), key
        np.testing.assert_array_equal(ours.astype(np.float32), value.detach().float().numpy())
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(module.state_dict(), tmp_path / "y.pt")  # an OrderedDict with _metadata
    assert open_tensors(tmp_path / "y.pt").keys() == module.state_dict().keys()


def test_diffusers_loads_what_is_written(golden_model, tmp_path, same):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    export_diffusers(golden_model, tmp_path)
    data = np.load(GOLDEN / "vae.npz")
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae").eval()
    decoded = vae.decode(torch.from_numpy(data["latent"])).sample
    same("golden autoencoder exported to diffusers", decoded, data["decoded"])
    assert DDIMScheduler.from_pretrained(tmp_path / "scheduler").config.steps_offset == 1
    unet, info = UNet2DConditionModel.from_pretrained(tmp_path / "unet", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    import_weights([str(tmp_path)], tmp_path / "ours", {})
    ours = load_model(tmp_path / "ours", networks=("unet",)).unet
    z_t, context = draw(2, 16, 16, 4), draw(2, 1, 48, seed=1)
    out = jax.jit(lambda unet, *args: unet(*args))(
        ours, z_t[:, None], np.full((2, 1), 500, np.int32), context, draw(2, 1, 16, seed=2)
    )
    expected = unet.eval()(nchw(z_t), torch.tensor(500), torch.from_numpy(context)).sample
    same("golden UNet's 2-D part exported to diffusers", out[:, 0], nhwc(expected))


def test_transformers_loads_what_is_written(golden_model, tmp_path, same):
    from transformers import CLIPVisionModelWithProjection

    assert not [note for note in export_diffusers(golden_model, tmp_path) if "vision" in note]
    theirs, info = CLIPVisionModelWithProjection.from_pretrained(
        tmp_path / "image_encoder", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ours = load_model(golden_model, networks=("clip",)).clip
    pixels = draw(2, ours.config.image_size, ours.config.image_size, 3)
    expected = theirs.eval()(pixel_values=nchw(pixels)).image_embeds.numpy()
    embedding = jax.jit(lambda clip, x: clip(x))(ours, pixels)
    same("golden tower exported to transformers", embedding, expected)
    import_weights([str(tmp_path)], tmp_path / "ours", {})
    back = load_model(tmp_path / "ours", networks=("clip",)).clip
    np.testing.assert_array_equal(jax.jit(lambda clip, x: clip(x))(back, pixels), embedding)
