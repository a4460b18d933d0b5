"""The parts of the renderer by hand: sums along rays, chunks, subsets, light and what is shown.

Where a field is needed it is one whose density and colour are formulas.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.nerf import field, occupancy, render, shading
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.render import RenderSpec
from iso3d_jax.nerf.sampling import Samples
from tests.formulas import use

FIELD = FieldSpec()


@pytest.mark.parametrize("longest", [1, 2, 3, 5, 64, 65, 100, 128, 129, 200])
def test_sums_before_a_sample_reach_over_the_longest_run(longest):
    """Runs as long as is promised, and one sample longer than the doublings so far."""
    runs = [longest, 1, longest, longest - 1, 2 if longest > 1 else 1]
    ray = np.repeat(np.array([0, 2, 3, 5, 6]), runs).astype(np.int32)
    values = np.random.default_rng(longest).integers(1, 9, len(ray)).astype(np.float32)
    want = np.concatenate(
        [np.cumsum(v) - v for v in np.split(values, np.cumsum(runs)[:-1])]
    )  # whole numbers: exact
    np.testing.assert_array_equal(SUMS(values, ray, longest), want)


SUMS = jax.jit(render._exclusive_sums, static_argnums=2)


def test_light_that_reaches_a_sample_in_a_run_of_a_hundred():
    density = np.full(100, 2.0, np.float32)
    length = np.linspace(0.01, 0.03, 100).astype(np.float32)
    ray = np.zeros(100, np.int32)
    weights, reaches = jax.jit(render.composite_weights, static_argnums=3)(
        density, length, ray, 100
    )
    tau = 2.0 * np.linspace(0.01, 0.03, 100)
    before = np.exp(-(np.cumsum(tau) - tau))
    np.testing.assert_allclose(reaches, before, rtol=1e-4)
    np.testing.assert_allclose(weights, before * (1 - np.exp(-tau)), rtol=1e-4)
    np.testing.assert_allclose(weights.sum(), 1 - np.exp(-tau.sum()), rtol=1e-5)


def test_chunks_of_any_size_return_what_all_at_once_does():
    x, scale = jnp.arange(14.0).reshape(7, 2), jnp.arange(7.0) + 1.0
    sizes = []

    def fn(x, scale):
        sizes.append(len(x))
        return x * scale[:, None], jnp.sum(x, -1) + scale

    want = fn(x, scale)
    for chunk, seen in ((0, 7), (7, 7), (8, 7), (3, 3), (1, 1), (6, 6)):
        sizes.clear()
        got = render.chunked(fn, chunk, x, scale)
        assert set(sizes) == {seen}
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_chunks_behind_the_last_used_row_are_not_computed():
    """Rows that matter, and every gradient of them, are as without; what runs is counted."""
    x, weight = jnp.arange(1.0, 41.0).reshape(20, 2), jnp.array([2.0, 3.0])
    ran = []

    def all_of(weight, x, used, chunk):
        def fn(x):
            jax.debug.callback(lambda: ran.append(1))
            return jnp.sin(x[:, 0] * weight[0]), x * weight[1]

        one, two = render.chunked(fn, chunk, x, used=used)
        matters = jnp.arange(20) < used
        return jnp.sum(jnp.where(matters, one, 0)) + jnp.sum((matters[:, None] * two) ** 2)

    for used, chunks in ((0, 0), (1, 1), (6, 1), (7, 2), (20, 4), (50, 4)):
        used = jnp.int32(used)
        ran.clear()
        got = jax.jit(all_of, static_argnums=3)(weight, x, used, 6)
        jax.effects_barrier()
        assert len(ran) == chunks
        np.testing.assert_allclose(got, all_of(weight, x, used, 0), rtol=1e-6)
        slopes = jax.grad(all_of, (0, 1))
        for a, b in zip(slopes(weight, x, used, 6), slopes(weight, x, used, 0), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_points_and_sums_of_rays():
    rays_o = jnp.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    rays_d = jnp.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    ray, t = jnp.array([0, 2, 2]), jnp.array([2.0, 1.0, 3.0])
    x = render.points(rays_o, rays_d, ray, t)
    np.testing.assert_array_equal(x, [[1, 2, 5], [8, 8, 9], [10, 8, 9]])
    np.testing.assert_array_equal(
        render.per_ray(x, ray, 4), [[1, 2, 5], [0, 0, 0], [18, 16, 18], [0, 0, 0]]
    )


def test_sums_of_rays_scatter_numbers_and_not_rows():
    """Rows of a few channels are 128 wide on a TPU: gigabytes where samples are millions."""

    def loss(values, ray):
        return jnp.sum(render.per_ray(values, ray, 4) ** 2)

    program = jax.jit(jax.grad(loss)).lower(jnp.ones((7, 3)), jnp.zeros(7, jnp.int32)).as_text()
    added = re.findall(r"\) : \((tensor<[^>]*>), tensor<7x1xi32>", program)
    assert added == ["tensor<4xf32>"] * 3


def test_a_subset_is_spread_over_the_samples_in_use():
    valid = jnp.arange(90) < 60
    samples = Samples(jnp.zeros(90, jnp.int32), jnp.zeros(90), jnp.zeros(90), valid, jnp.int32(60))
    subset = jax.jit(render.subset, static_argnums=2)
    starts = []
    for seed in range(8):
        index, stretch = subset(jax.random.key(seed), samples, 15)
        assert float(stretch) == 4.0 and int(index[-1]) < 60
        np.testing.assert_array_equal(np.diff(index), 4)
        starts.append(int(index[0]))
    assert set(starts) <= {0, 1, 2, 3} and len(set(starts)) > 2
    index, stretch = subset(jax.random.key(0), samples, 80)  # more slots than there are samples
    assert float(stretch) == 1.0
    np.testing.assert_array_equal(index, np.minimum(np.arange(80), 89))


@pytest.fixture
def formulas(monkeypatch):
    """A wall at x < 0.2: density 5 there, and 1.5 more for each unit of y; colours of position."""

    def density(params, x, spec):
        value = jnp.where(x[:, 0] < 0.2, 5.0 + 1.5 * x[:, 1], 0.0) * params["solid"]
        return field.display_density(value, params)

    use(monkeypatch, density, lambda x: 0.5 + 0.4 * jnp.sin(3.0 * x), [0.8, 0.0, 0.6])
    return {"solid": jnp.float32(1.0)}


RAYS_O = np.array([[2.0, 0.1, 0.0], [1.0, 0.5, -0.3], [2.0, 3.0, 0.0], [3.0, -0.4, 0.2]])
RAYS_D = np.array([[-1.0, 0.0, 0.0], [-0.8, 0.0, 0.6], [-1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
STEP = 0.04
DENSE = RenderSpec(step_size=STEP, bound="box", candidates=60, samples=60, alpha_threshold=0.0,
                   early_stop=0.0)  # fmt: skip


def walk(ray):
    """Places, densities and colours of a ray's steps through the box, in their middle, float64."""
    o, d = RAYS_O[ray], RAYS_D[ray]
    t = np.arange(0.0, 6.0, 1e-4)
    inside = (np.abs(o + t[:, None] * d) <= 1.0).all(-1)
    if not inside.any():
        return np.zeros(0), np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3))
    near, far = t[inside][[0, -1]]
    t = near + (np.arange(200) + 0.5) * STEP
    t = t[t < far]
    x = o + t[:, None] * d
    return t, np.where(x[:, 0] < 0.2, 5.0 + 1.5 * x[:, 1], 0.0), 0.5 + 0.4 * np.sin(3 * x), x


def weights_of(density, length=STEP):
    tau = density * length
    return np.exp(-(np.cumsum(tau) - tau)) * (1 - np.exp(-tau))


def rays():
    return jnp.asarray(RAYS_O, jnp.float32), jnp.asarray(RAYS_D, jnp.float32)


def test_a_rendering_is_composited_on_its_background(formulas):
    fn = jax.jit(lambda p, o, d: render.render(None, p, o, d, None, DENSE, FIELD, 0.25))
    rendering, samples, weights = fn(formulas, *rays())
    for ray in range(4):
        t, density, colour, _ = walk(ray)
        w = weights_of(density)
        np.testing.assert_allclose(rendering.opacity[ray], w.sum(), atol=2e-3)
        np.testing.assert_allclose(rendering.rgb[ray], w @ colour + 0.25 * (1 - w.sum()), atol=2e-3)
        np.testing.assert_allclose(rendering.depth[ray], w @ t, atol=5e-3)
    assert float(rendering.opacity[2]) == 0 and float(rendering.opacity[3]) > 0.5
    sums = np.bincount(samples.ray, weights, 4)
    np.testing.assert_allclose(sums, rendering.opacity, rtol=1e-5)


def test_every_ray_has_the_light_of_its_own(formulas):
    """The light is before the wall, behind it, anywhere, and to the side."""
    light = np.array([[3.0, 0, 1.0], [-4.0, 0, 1.0], [0, 0, 0], [1.0, -5.0, 0.2]])

    def lit(kind):
        given = (jnp.int32(kind), jnp.float32(0.2), jnp.asarray(light, jnp.float32))
        return jax.jit(
            lambda o, d: render.render(None, formulas, o, d, None, DENSE, FIELD, light=given)[0].rgb
        )(*rays())

    normal = np.array([0.8, 0.0, 0.6])
    diffuse, plain = lit(shading.DIFFUSE), lit(shading.TEXTURELESS)
    for ray in (0, 1, 3):
        _, density, colour, x = walk(ray)
        w = weights_of(density)
        towards = light[ray] - x
        cosine = (towards / np.linalg.norm(towards, axis=-1, keepdims=True)) @ normal
        bright = (0.2 + 0.8 * np.maximum(cosine, 0))[:, None]
        np.testing.assert_allclose(diffuse[ray], w @ (colour * bright) + 1 - w.sum(), atol=3e-3)
        np.testing.assert_allclose(plain[ray], w @ bright + 1 - w.sum() + np.zeros(3), atol=3e-3)


def place(params, spec, grid=None):
    return jax.jit(lambda p, o, d: render.place_samples(None, p, o, d, grid, spec, FIELD))(
        params, *rays()
    )


def test_samples_that_are_too_thin_or_hidden_are_dropped(formulas):
    """By the opacity of one step, and by the light that is left before it."""
    counts = [60 * 4]  # slots of candidates, and of samples below
    for thin, stop, mean in ((0.2, 0.0, None), (0.0, 0.05, None),
                             (0.9, 0.0, 0.2), (0.2, 0.0, 9e9)):  # fmt: skip
        spec = RenderSpec(step_size=STEP, bound="box", candidates=60, samples=30,
                          alpha_threshold=thin, early_stop=stop)  # fmt: skip
        grid = None
        lowest = thin
        if mean is not None:
            grid = occupancy.Grid(jnp.ones(4**3, bool), jnp.float32(mean / STEP))
            lowest = min(thin, mean)
        samples, wanted = place(formulas, spec, grid)
        ray, t, steps = [], [], 0
        for r in range(4):
            at, density, _, _ = walk(r)
            steps += len(at)
            tau = density * STEP
            before = np.exp(-(np.cumsum(tau) - tau))
            useful = (1 - np.exp(-tau) >= lowest) & (before >= stop)
            ray += [r] * useful.sum()
            t += list(at[useful])
        used = np.asarray(samples.valid)
        np.testing.assert_allclose(wanted, [steps / counts[0], len(ray) / 120], rtol=0.02)
        if len(ray) <= 120:
            np.testing.assert_array_equal(samples.ray[used], ray)
            np.testing.assert_allclose(samples.t[used], t, atol=2e-3)
        else:
            assert used.all() and float(samples.length[0]) > STEP


def test_candidates_that_no_ray_asked_for_are_not_looked_at(formulas, monkeypatch):
    """Slots are for the fullest iteration; an eighth without a candidate is not computed."""
    looked, density = [], field.density

    def seen(params, x, spec):
        jax.debug.callback(lambda: looked.append(len(x)))
        return density(params, x, spec)

    monkeypatch.setattr(field, "density", seen)
    spec = RenderSpec(step_size=STEP, bound="box", candidates=400, samples=40)
    samples, wanted = place(formulas, spec)
    jax.effects_barrier()
    steps = sum(len(walk(r)[0]) for r in range(4))
    assert 0 < steps < 200 and looked == [200]  # of 4 x 400
    np.testing.assert_allclose(wanted[0], steps / 1600, rtol=0.02)
    monkeypatch.setattr(render, "PARTS", 1)
    whole, _ = place(formulas, spec)
    jax.effects_barrier()
    assert looked == [200, 1600]
    for a, b in zip(samples, whole, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_wanted_counts_what_thinned_candidates_stand_for(formulas):
    spec = RenderSpec(step_size=STEP, bound="box", candidates=20, samples=40, alpha_threshold=0.01,
                      early_stop=0.0)  # fmt: skip
    samples, wanted = place(formulas, spec)
    assert samples.t.shape == (80,)  # no more samples than candidates
    steps = sum(len(walk(r)[0]) for r in range(4))
    solid = sum(int((walk(r)[1] > 0).sum()) for r in range(4))
    np.testing.assert_allclose(wanted, [steps / 80, solid / 80], rtol=0.05)
    np.testing.assert_allclose(samples.length.sum(), solid * STEP, rtol=0.05)
