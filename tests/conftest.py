"""Fixtures that several folders of tests share."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from iso3d_jax import command_line  # noqa: E402

command_line.use_compilation_cache()


@pytest.fixture(scope="session")
def run_python():
    """Runs `python ARGS...` in the repository's folder; returns the finished process.

    Keywords are environment variables; None takes one away.
    """

    def run(*args, timeout=600, **environment):
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=ROOT,
            env={name: value for name, value in environment.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def refused(run_python):
    """Runs a command that must refuse: status 2, one `error: ...` line, no traceback."""

    def run(*args, **environment):
        process = run_python(*args, **environment)
        errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
        assert process.returncode == 2, process.stdout + process.stderr
        assert len(errors) == 1 and "Traceback" not in process.stderr, process.stderr
        return errors[0]

    return run


@pytest.fixture(scope="session")
def random_model():
    """A model of the tiny kind with random weights: real networks, meaningless pictures."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from ml_collections import ConfigDict

    from iso3d_jax.diffusion.schedule import make_schedule
    from iso3d_jax.models.clip import CLIPConfig, CLIPVisionTower
    from iso3d_jax.models.unet import MultiViewUNet, UNetConfig
    from iso3d_jax.models.vae import AutoencoderKL, VAEConfig

    unet = UNetConfig(
        in_channels=8, out_channels=8, model_channels=32, channel_mult=(1, 2),
        attention_resolutions=(2,), num_res_blocks=1, context_dim=24, num_head_channels=16,
        num_groups=8,
    )  # fmt: skip
    vae = VAEConfig(ch=16, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=8, embed_dim=8,
                    num_groups=8)  # fmt: skip
    clip = CLIPConfig(image_size=32, patch_size=8, width=32, layers=1, heads=2, output_dim=24)
    config = ConfigDict(
        dict(name="random", resolution=64, latent_size=8, latent_channels=8, scale_factor=0.5,
             parameterization="v", camera_encoding="mvdream", context_dim=24, picture="centred")
    )  # fmt: skip

    def random(make, seed):
        """The module with random numbers in it; compiles nothing. No layer starts at zero."""
        graph, state = nnx.split(nnx.eval_shape(make))
        draw = np.random.default_rng(seed).standard_normal

        def fill(path, leaf):
            if "scale" in jax.tree_util.keystr(path):
                return jnp.ones(leaf.shape, leaf.dtype)
            size = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100.0
            return jnp.asarray(draw(leaf.shape) / np.sqrt(size), leaf.dtype)

        return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))

    return SimpleNamespace(
        unet=random(lambda: MultiViewUNet(unet, rngs=nnx.Rngs(0)), 0),
        vae=random(lambda: AutoencoderKL(vae, rngs=nnx.Rngs(0)), 1),
        clip=random(lambda: CLIPVisionTower(clip, rngs=nnx.Rngs(0)), 2),
        config=config,
        alphas_cumprod=jnp.asarray(make_schedule()),
    )
