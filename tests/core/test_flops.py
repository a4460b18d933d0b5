"""Operations are counted as one would by hand, whatever remat and the kernels do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core import chips, flops
from iso3d_jax.models import splash
from iso3d_jax.models.params import merge_params
from iso3d_jax.training import sharding
from iso3d_jax.training.speed import Speed
from iso3d_jax.training.tasks import denoiser


def shaped(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def counted(f, *arguments):
    return flops.count(jax.jit(f).trace(*arguments).jaxpr)


def test_products_loops_and_choices():
    product = 2 * 3 * 5 * 7
    x, y = shaped(3, 5), shaped(5, 7)
    assert counted(jnp.matmul, x, y).executed == product
    assert counted(jax.vmap(jnp.matmul), shaped(4, 3, 5), shaped(4, 5, 7)).executed == 4 * product

    def loop(x, y):
        return jax.lax.scan(lambda c, _: (c, c @ y), x, length=6)

    assert counted(loop, x, y).executed == 6 * product

    def choice(x, y):
        return jax.lax.cond(x[0, 0] > 0, lambda: (x @ y).sum(), lambda: x.sum())

    assert counted(choice, x, y).executed == product


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolutions_gradients_cost_what_it_costs(stride):
    def conv(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=numbers
        ).sum()

    x, kernel = shaped(2, 32, 32, 8), shaped(3, 3, 8, 16)
    once = 2 * 2 * (32 // stride) ** 2 * 16 * 9 * 8
    assert counted(conv, x, kernel).executed == once
    assert counted(jax.value_and_grad(conv, argnums=(0, 1)), x, kernel).executed == 3 * once


def test_remat_repeats_and_the_model_does_not(make_config, make_task):
    found = {}
    for remat in ("none", "blocks"):
        task = make_task(make_config(remat=remat))
        batch = task.batch(next(s for s in range(99) if task.branch(s) == "2-b"))

        def loss(params, task=task, batch=batch):
            unet = merge_params(task.graphdef, params)
            return denoiser.denoising_loss(unet, batch, jax.random.key(0), task.cfg, 0.7)[0]

        found[remat] = counted(jax.grad(loss), task.abstract_params)
    assert found["none"].repeated == 0 < 0.2 * found["none"].executed < found["blocks"].repeated
    np.testing.assert_allclose(found["blocks"].useful, found["none"].executed, rtol=0.03)


def test_the_kernels_products():
    """Forward 2 products, backward 4 that are needed and 3 that were done before."""
    qkv = [shaped(2, 1024, 3, 64, dtype=jnp.bfloat16)] * 3
    product = 2 * 2 * 3 * 64 * 1024**2

    def loss(q, k, v):
        return jax.checkpoint(splash.attend)(q, k, v).astype(jnp.float32).sum()

    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        one = counted(splash.attend, *qkv)
        found = counted(jax.value_and_grad(loss, argnums=(0, 1, 2)), *qkv)
    assert one.executed == one.in_kernels == one.useful == 2 * product
    assert found.in_kernels == 11 * product  # forward, forward again, backward
    assert found.in_kernels - found.repeated == pytest.approx(6 * product, rel=1e-3)


def test_speed_counts_between_logs(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("iso3d_jax.training.speed.time.monotonic", lambda: now[0])
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    speed = Speed(8, mesh)
    speed.register_flops(
        "a", jax.jit(jnp.matmul).trace(shaped(1000, 1000), shaped(1000, 1000)).jaxpr
    )
    speed.wait(50.0)  # for the first batch, and then a compilation
    now[0] += 50.0
    speed.restart()
    for _ in range(4):
        speed.add("a")
        speed.wait(0.5)
        now[0] += 2.0
    values = speed.values()
    assert values["steps_per_second"] == 0.5 and values["objects_per_second"] == 4.0
    assert values["data_wait_share"] == 0.25
    assert values["tflops_per_device"] == pytest.approx(0.001)
    assert "share_of_peak" not in values  # nobody knows this machine's
    monkeypatch.setattr(chips, "find_peak", lambda kind: 1e10)
    speed = Speed(8, mesh)
    speed._flops["a"] = 2e9
    speed.add("a")
    now[0] += 1.0
    assert speed.values()["share_of_peak"] == pytest.approx(0.2)


def test_chips_by_the_names_that_jax_gives_them():
    kinds = {"TPU v5 lite": 197, "TPU v5": 459, "TPU v6 lite": 918, "NVIDIA H100 80GB HBM3": 989}
    assert [chips.find_peak(kind) / 1e12 for kind in kinds] == list(kinds.values())
    assert chips.find_peak("cpu") is None
