"""Types: what a model is stored, held and computed in, and the flag of every command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax import sampling
from iso3d_jax.commands.config_files import load_config
from iso3d_jax.models.params import split_params
from iso3d_jax.reconstruction import run, state
from iso3d_jax.reconstruction.spec import make_spec
from iso3d_jax.reconstruction.step import run_steps
from iso3d_jax.weights import bundle


def test_the_camera_mlp_is_stored_in_float32(model_folder, tmp_path):
    """In bfloat16 a weight keeps 8 bits, and the released cameras run into each other."""
    weights = bundle.load_weights(model_folder, ("unet",))
    camera = {k: w for k, w in weights["unet"].items() if k.startswith("camera_embed/")}
    finer = {k: jnp.asarray(w, jnp.float32) + 1e-4 for k, w in camera.items()}
    bundle.save_bundle(
        tmp_path, bundle.load_config(model_folder), {"unet": weights["unet"] | finer}
    )
    again = bundle.load_weights(tmp_path, ("unet",))["unet"]
    assert camera
    for path, weight in again.items():
        wanted = jnp.float32 if path.startswith("camera_embed/") else jnp.bfloat16
        assert weight.dtype == wanted, path
    for path, weight in finer.items():
        np.testing.assert_array_equal(again[path], weight)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_held_and_computes_in_one_type(model_folder, dtype):
    model = bundle.load_model(model_folder, dtype)
    assert model.dtype == dtype
    for name in ("unet", "vae", "clip"):
        network = getattr(model, name)
        assert jnp.dtype(network.dtype) == dtype
        for path, weight in split_params(network)[1].items():
            wanted = "float32" if path.startswith("camera_embed/") else dtype
            assert weight.dtype == wanted, path


def test_left_out_it_is_what_the_device_is_fast_at(model_folder, monkeypatch):
    assert bundle.load_model(model_folder).dtype == "float32"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    model = bundle.load_model(model_folder)
    assert model.dtype == "bfloat16"
    assert split_params(model.vae)[1]["quant_conv/kernel"].dtype == jnp.bfloat16


@pytest.mark.long
def test_a_scene_stays_in_float32_and_follows_the_same_losses(model_folder):
    """Networks in bfloat16; density, compositing, losses and schedule are float32 all the same."""
    spec = make_spec(load_config("tests/smallest_reconstruction.py"))
    picture = np.random.default_rng(0).random((64, 64, 3), np.float32)
    found = {}
    for dtype in ("float32", "bfloat16"):
        model = bundle.load_model(model_folder, dtype)
        denoiser, denoiser_spec = run.make_denoiser(model, picture)
        scene, record = run_steps(
            state.start(spec),
            denoiser,
            jnp.int32(2),
            jax.random.key(spec.seed),
            capacity=2,
            spec=spec,
            denoiser_spec=denoiser_spec,
            phase=0,
        )
        assert {x.dtype for x in jax.tree.leaves(scene.params)} == {jnp.dtype("float32")}
        assert {x.dtype for x in record.values()} == {jnp.dtype("float32")}
        assert (
            denoiser.context.dtype == jnp.float32 and denoiser.alphas_cumprod.dtype == jnp.float32
        )
        found[dtype] = record
    # The scene alone does not see the networks; what they say differs by bfloat16's rounding. Two
    # compiled programs may add up in another order, by processor.
    np.testing.assert_allclose(
        found["bfloat16"]["opacity"][0], found["float32"]["opacity"][0], rtol=2e-6
    )
    np.testing.assert_allclose(
        found["bfloat16"]["guidance"], found["float32"]["guidance"], rtol=0.05
    )
    assert not np.array_equal(found["bfloat16"]["guidance"], found["float32"]["guidance"])


def test_views_in_bfloat16_are_the_views_of_float32(model_folder):
    picture = np.random.default_rng(0).random((64, 64, 3), np.float32)
    drawn = {}
    for dtype in ("float32", "bfloat16"):
        model = bundle.load_model(model_folder, dtype)
        drawn[dtype] = sampling.sample_views(model, [picture], steps=2, eta=0.0)
    assert drawn["bfloat16"].dtype == np.float32
    difference = np.abs(drawn["bfloat16"] - drawn["float32"])
    assert 0 < difference.mean() < 0.02


COMMANDS = ["sample", "reconstruct", "evaluate", "compare", "demo", "train", "data.encode"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_runs_networks_has_the_flag(command, run_python):
    process = run_python("-m", f"iso3d_jax.{command}", "--help")
    lines = [line for line in process.stdout.splitlines() if line.startswith("  --dtype DTYPE")]
    assert len(lines) == 1, process.stdout + process.stderr
    config = ["--config=configs/stage1.py:tiny"] if command == "train" else []
    refused = run_python("-m", f"iso3d_jax.{command}", *config, "--dtype=float8")
    assert refused.returncode == 2 and "float8" in refused.stderr


def test_a_task_without_a_type_refuses_one(refused, tmp_path):
    message = refused(
        "-m", "iso3d_jax.train", "--config=configs/autoencoder.py", f"--workdir={tmp_path}",
        "--dtype=bfloat16",
    )  # fmt: skip
    assert "the autoencoder trains in float32" in message
