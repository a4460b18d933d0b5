"""An iteration of the released presets: traced with small networks, never run or compiled."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from iso3d_jax.commands import config_files
from iso3d_jax.models.params import merge_params
from iso3d_jax.reconstruction import state
from iso3d_jax.reconstruction.losses import Denoiser, DenoiserSpec, fold
from iso3d_jax.reconstruction.spec import make_spec
from iso3d_jax.reconstruction.step import run_steps, train_step
from iso3d_jax.weights import bundle
from iso3d_jax.weights.model_spec import ModelSpec
from tests.conftest import SMALL_MODEL

CONFIG = Path(__file__).parents[2] / "configs" / "reconstruct.py"
SPEC = DenoiserSpec(256, 0.18215, "eps", "isotropic3d")


@pytest.fixture(scope="module")
def denoiser():
    """Networks of 256 x 256 pictures, small in all but that, without weights."""
    config = bundle.make_config(ModelSpec.read(SMALL_MODEL))
    unet, vae = (merge_params(*bundle.abstract_network(n, config)) for n in ("unet", "vae"))
    context = jax.ShapeDtypeStruct((1, 1, SMALL_MODEL["unet"]["context_dim"]), jnp.float32)
    return Denoiser(unet, vae, context, jax.ShapeDtypeStruct((1000,), jnp.float32))


@pytest.mark.parametrize(
    ("preset", "phase", "memory"),
    [
        ("isotropic3d", 0, "normal"),
        ("isotropic3d", 1, "normal"),
        ("isotropic3d", 1, "low"),
        ("fast", 0, "normal"),
        ("fast", 1, "normal"),
    ],
)
def test_both_resolutions_of_a_preset_trace(denoiser, preset, phase, memory):
    cfg = config_files.load_config(f"{CONFIG}:{preset}")
    cfg.memory = memory
    make_spec(cfg)
    assert [p[1] for p in cfg.phases] == [64, 256]
    first_end = cfg.phases[0][0]
    assert [make_spec(cfg).phase_at(step) for step in (first_end - 1, first_end)] == [0, 1]
    scene = jax.eval_shape(lambda: state.start(make_spec(cfg)))
    parameters = sum(x.size for x in jax.tree.leaves(scene.params["encoding"]))
    assert parameters == 12_599_920  # as in the released code
    step = functools.partial(train_step, spec=make_spec(cfg), denoiser_spec=SPEC, phase=phase)
    after, record = jax.eval_shape(step, scene, denoiser, jax.random.key(0))
    assert jax.tree.structure(after) == jax.tree.structure(scene)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(after)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(scene)
    ]
    assert {"guidance", "orientation", "total", "gradient", "t", "opacity"} <= set(record)


def products(jaxpr) -> int:
    return str(jaxpr).count("dot_general")


def test_the_embedding_is_folded_once_for_all_iterations(denoiser, random_model):
    real = Denoiser(random_model.unet, None, jnp.ones((1, 1, 24)), None)
    token = fold(real, 2).folded.token
    assert token.shape == (4, 24) and not token[:2].any() and (token[2:] == 1).all()

    cfg = config_files.load_config(f"{CONFIG}:isotropic3d")
    scene = jax.eval_shape(lambda: state.start(make_spec(cfg)))
    given = dict(spec=make_spec(cfg), denoiser_spec=SPEC, phase=0)
    folded = jax.eval_shape(lambda denoiser: fold(denoiser, cfg.phases[0][2]), denoiser)
    step = functools.partial(train_step, **given)
    every_time = products(jax.make_jaxpr(step)(scene, denoiser, jax.random.key(0)))
    once = products(jax.make_jaxpr(step)(scene, folded, jax.random.key(0)))
    blocks = sum(map(len, folded.folded.attention))
    assert blocks and every_time - once == 2 * blocks  # `to_v` and `to_out`

    run = functools.partial(run_steps, capacity=2, **given)
    (program,) = jax.make_jaxpr(run)(scene, denoiser, jnp.int32(2), jax.random.key(0)).eqns
    loops = [e for e in program.params["jaxpr"].eqns if e.primitive.name == "while"]
    assert max(products(loop.params["body_jaxpr"]) for loop in loops) == once
