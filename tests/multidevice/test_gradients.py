"""Gradients over eight fake devices: those by hand, added up in float32 and never whole."""

SCRIPT = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from iso3d_jax.training import sharding
from iso3d_jax.training.gradients import value_and_gradients

rules = ((r"in/kernel$", P("fsdp", "tensor")), (r"out/kernel$", P("tensor", "fsdp")),
         (r"bias$", P()))
shapes = {"in/kernel": (8, 16), "out/kernel": (16, 8), "in/bias": (16,)}
keys = jax.random.split(jax.random.key(0), 4)
params = {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items())}
frozen = {"in/bias": params.pop("in/bias")}
x = jax.random.normal(keys[3], (16, 8))

def loss_fn(p, x):
    half = lambda a: a.astype(jnp.bfloat16)
    y = jnp.tanh(half(x) @ half(p["in/kernel"]) + half(p["in/bias"])) @ half(p["out/kernel"])
    error = jnp.mean(jnp.square(y.astype(jnp.float32) - 1.0), 1)
    return error.mean(), {"rows": jnp.float32(len(x)), "sum": error.sum()}

def gradients(parts):
    return jax.jit(lambda p, f, x: value_and_gradients(
        loss_fn, p, f, x, rules, parts, lambda path: jnp.bfloat16))

# What is right, in float64 and by hand; the network's own numbers have eight bits.
X, IN, OUT, BIAS = (np.asarray(a, np.float64) for a in (
    x, params["in/kernel"], params["out/kernel"], frozen["in/bias"]))
hidden = np.tanh(X @ IN + BIAS)
error = hidden @ OUT - 1.0
by_row = (error**2).mean(1)
pull = 2 * error / error.size
want_loss, want_sum = by_row.mean(), by_row.sum()
want = {"out/kernel": hidden.T @ pull, "in/kernel": X.T @ (pull @ OUT.T * (1 - hidden**2))}
mixes = [(1, 1), (4, 1), (8, 1), (2, 2), (1, 2), (2, 4), (1, 8)]
for shape in (dict(fsdp=fsdp, tensor=tensor) for fsdp, tensor in mixes):
    mesh = sharding.make_mesh(shape)
    put = lambda tree: {n: jax.device_put(a, jax.NamedSharding(mesh, sharding.spec_for(
        n, a.shape, mesh.shape, rules))) for n, a in tree.items()}
    for parts in (1, 2):
        args = put(params), put(frozen), jax.device_put(x, sharding.batch_sharding(mesh))
        with jax.set_mesh(mesh):
            traced = gradients(parts).trace(*args)
            compiled = traced.lower().compile()
        (loss, sums), found = compiled(*args)
        np.testing.assert_allclose(loss, want_loss, rtol=1e-2)
        assert sums["rows"] == 16
        np.testing.assert_allclose(sums["sum"], want_sum, rtol=1e-2)
        for name, value in want.items():
            np.testing.assert_allclose(found[name], value, atol=0.03 * np.abs(value).max())
            assert found[name].sharding.is_equivalent_to(args[0][name].sharding, 2)
        reduced = re.findall(r":(\\w+)\\[[\\d,]*\\] = (reduce_scatter|psum)", str(traced.jaxpr))
        assert ("reduce_scatter" in dict(map(reversed, reduced))) == (shape["fsdp"] > 1), shape
        assert reduced or shape["tensor"] == 8
        assert {dtype for dtype, _ in reduced} <= {"f32"}, reduced
        gathered = re.findall(r":(\\w+)\\[[\\d,]*\\] = all_gather", str(traced.jaxpr))
        assert set(gathered) == ({"bf16"} if shape["fsdp"] > 1 else set()), gathered
print("all right")
"""


def test_gradients_of_eight_devices(run_python):
    process = run_python("-c", SCRIPT, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert process.stdout.strip() == "all right", process.stderr
