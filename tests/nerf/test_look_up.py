"""The look-up that a platform gets against the plain form, and its gradients of every order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.nerf import hash_grid, look_up, look_up_triton
from iso3d_jax.nerf.hash_grid import HashGridSpec
from iso3d_jax.nerf.look_up import VALUE_AND_SLOPES

SPEC = HashGridSpec(levels=4, log2_table_size=8, base_resolution=4, growth=1.6)  # two are hashed
ALL = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    grid = hash_grid.from_flat(jnp.asarray(rng.normal(size=SPEC.num_params), jnp.float32), SPEC)
    inside = rng.random((37, 3))
    borders = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 0.5]])
    return grid, jnp.asarray(np.concatenate([inside, borders]), jnp.float32)


def same(got, want, atol=1e-6):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(1.0, float(jnp.max(jnp.abs(other))))
        np.testing.assert_allclose(one / scale, other / scale, atol=atol)


def plain(grid, x, derivatives=look_up.VALUE, spec=SPEC):
    values = hash_grid.gather(grid, x, spec)
    return tuple(hash_grid.interpolate(values, x, spec, axes) for axes in derivatives)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        HashGridSpec(levels=2, features=3, log2_table_size=9, base_resolution=3, growth=1.5),
        HashGridSpec(levels=2, features=1, log2_table_size=6, base_resolution=5, growth=1.5),
    ],
    ids=["both", "none_hashed", "all_hashed"],
)
def test_by_levels_it_is_the_plain_form(scene, spec):
    kinds = {level.hashed for level in spec.table}
    assert kinds == ({False, True} if spec is SPEC else {spec.features == 1})
    rng = np.random.default_rng(1)
    grid = hash_grid.from_flat(jnp.asarray(rng.normal(size=spec.num_params), jnp.float32), spec)
    x = scene[1]
    shares = jnp.asarray(rng.normal(size=(len(ALL), spec.width, len(x))), jnp.float32)

    @jax.jit
    def both(grid, x, shares):
        ways = (look_up._look_up_by_levels, look_up._look_up_plain)
        back = (look_up._spread_by_levels, look_up._spread_plain)
        named = {"spec": spec, "derivatives": ALL}
        return [f(grid, x, **named) for f in ways], [f(x, tuple(shares), **named) for f in back]

    (got, want), (got_back, want_back) = both(grid, x, shares)
    same(got, want)
    same(got_back, want_back)


def test_slopes_are_those_of_the_value(scene):
    grid, x = scene
    value, *slopes = look_up.look_up(grid, x, SPEC, VALUE_AND_SLOPES)
    want, by_x = jax.vmap(
        lambda p: (plain(grid, p[None])[0][:, 0], jax.jacrev(lambda p: plain(grid, p[None])[0])(p)),
        out_axes=-1,
    )(x)
    same(value, want)
    same(jnp.stack(slopes), jnp.moveaxis(by_x[:, 0], 1, 0), 1e-5)


def test_gradients_of_three_orders(scene):
    """Of a loss on the slopes (as normals are) to the table and to the points, and once more."""
    grid, x = scene
    rng = np.random.default_rng(2)
    shares = jnp.asarray(rng.normal(size=(4, SPEC.width, len(x))), jnp.float32)
    towards = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    def loss(find, grid, x):
        value, *slopes = find(grid, x)
        pull = sum(slope * share for slope, share in zip(slopes, shares, strict=False)) / 10.0
        return jnp.sum(jnp.sin(pull) + value * pull + jnp.square(value) * shares[3])

    def slope_of_gradient(find, grid, x):
        by_grid, by_x = jax.grad(functools.partial(loss, find), (0, 1))(grid, x)
        return sum(jnp.sum(jnp.square(g)) for g in by_grid) + jnp.sum(by_x * towards)

    def ours(grid, x):
        return look_up.look_up(grid, x, SPEC, VALUE_AND_SLOPES)

    def reference(grid, x):
        return plain(grid, x, VALUE_AND_SLOPES)

    @jax.jit
    def everything(grid, x):
        return [
            [
                jax.grad(functools.partial(f, find), (0, 1))(grid, x)
                for f in (loss, slope_of_gradient)
            ]
            for find in (ours, reference)
        ]

    got, want = everything(grid, x)
    for one, other in zip(got, want, strict=True):
        same(one, other, 2e-5)
        assert all(float(jnp.max(jnp.abs(g))) > 0 for g in jax.tree.leaves(other))


def test_what_no_axis_is_left_of_has_no_gradient_to_points(scene):
    grid, x = scene
    last = ((0, 1, 2),)
    by_x = jax.grad(lambda x: jnp.sum(look_up.look_up(grid, x, SPEC, last)[0]))(x)
    np.testing.assert_array_equal(by_x, np.zeros_like(x))


def test_the_kernels_interpreted_are_the_plain_form(scene):
    """Values, slopes and the scatter of their gradients; points that fill no block."""
    grid, x = scene[0], scene[1][-21:]
    shares = tuple(
        jnp.asarray(np.random.default_rng(3).normal(size=(4, SPEC.width, len(x))), jnp.float32)
    )
    named = {"spec": SPEC, "derivatives": VALUE_AND_SLOPES}
    got = look_up_triton.look_up(grid, x, block=16, interpret=True, **named)
    same(got, look_up._look_up_plain(grid, x, **named), 1e-5)
    got = look_up_triton.spread(x, shares, block=1, interpret=True, **named)
    same(got, look_up._spread_plain(x, shares, **named), 1e-5)


def test_the_kernels_are_in_programs_for_cuda_where_they_are_switched_on(monkeypatch):
    """First and second order: exported for CUDA on this machine, none of them run."""
    spec = HashGridSpec()
    grid = tuple(jax.ShapeDtypeStruct((n.entries, 2), jnp.float32) for n in spec.table)
    x = jax.ShapeDtypeStruct((1000, 3), jnp.float32)

    def kernels():
        def loss(grid, x):
            _, *slopes = look_up.look_up(grid, x, spec, VALUE_AND_SLOPES)
            return sum(jnp.sum(jnp.sin(slope)) for slope in slopes)

        call = "__gpu$xla.gpu.triton"
        text = jax.export.export(
            jax.jit(jax.grad(loss)), platforms=["cuda"],
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(call)],
        )(grid, x).mlir_module()  # fmt: skip
        return [name for name in ("look_up", "spread") if f'name = "hash_grid_{name}"' in text]

    monkeypatch.delenv(look_up.SWITCH, raising=False)
    assert kernels() == []
    monkeypatch.setenv(look_up.SWITCH, "triton")
    assert kernels() == ["look_up", "spread"]
    monkeypatch.setenv(look_up.SWITCH, "cudnn")
    with pytest.raises(UserError, match="'triton' or 'xla'"):
        kernels()
