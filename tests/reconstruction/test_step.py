"""One iteration by hand: weights of losses, AdamW's two rates, what is left out, the occupancy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.nerf import field, occupancy
from iso3d_jax.reconstruction import state, step
from iso3d_jax.reconstruction.losses import Denoiser, DenoiserSpec, Pictures
from iso3d_jax.reconstruction.spec import make_spec

SPEC = DenoiserSpec(16, 1.0, "v", "mvdream")
KEY = jax.random.key(0)
SHAPES = {"encoding": ((4, 2), (3, 2)), "density": {"in": (2, 3), "out": (3, 1)},
          "colour": {"in": (2, 3), "out": (3, 3)}}  # fmt: skip


def some(seed):
    """Parameters of a field's structure, float64."""
    rng = np.random.default_rng(seed)

    def is_shape(x):
        return isinstance(x, tuple) and isinstance(x[0], int)

    return jax.tree.map(lambda shape: rng.normal(size=shape), SHAPES, is_leaf=is_shape)


@pytest.fixture
def cfg(small_config):
    small_config.optimizer.update(
        encoding=0.03, networks=0.01, b1=0.8, b2=0.7, eps=0.5, weight_decay=0.25, final=1.0
    )
    small_config.loss.update(guidance=2.0, orientation=(0, 1.0, 11.0, 10), reference_l2=0.0)
    return small_config


def start(cfg, params):
    return state.start(make_spec(cfg), jax.tree.map(jnp.float32, params))


@pytest.fixture
def target():
    return some(1)


@pytest.fixture
def simple(monkeypatch, target):
    """Losses that are formulas: squares about a target, and one of the sum of all parameters."""

    def losses(params, source, key, at, grid, *, spec, denoiser_spec, phase):
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True)
        squares = sum(jnp.sum((p - t) ** 2) for p, t in pairs)
        total = sum(jnp.sum(p) for p in jax.tree.leaves(params))
        factor = 1.0 if source is None else source
        facts = {"draw": jax.random.uniform(key), "phase": phase, "mean": grid.mean, "at": at}
        return {"guidance": squares * factor, "orientation": total}, facts

    def update(key, occs, density, at, **given):
        return occs + 1.0 + jax.random.uniform(key)

    monkeypatch.setattr(step, "sds_losses", losses)
    monkeypatch.setattr(occupancy, "update", update)


def iterate(cfg, phase=0):
    given = dict(spec=make_spec(cfg), denoiser_spec=SPEC, phase=phase)
    return jax.jit(
        lambda current, source=None: step.train_step(
            current, source, jax.random.key(cfg.seed), **given
        )
    )


def test_three_iterations_are_three_updates_of_adamw_with_two_rates(cfg, simple, target):
    """Of losses with weights, one of them a ramp; decay holds for the grid as for the networks."""
    begin = some(0)
    current, fn, found = start(cfg, begin), iterate(cfg, phase=3), []
    for _ in range(3):
        current, metrics = fn(current)
        found.append(jax.device_get(metrics))
    leaves, names = jax.tree.leaves(begin), ["colour"] * 2 + ["density"] * 2 + ["encoding"] * 2
    for index, (value, aim, name, got) in enumerate(
        zip(leaves, jax.tree.leaves(target), names, jax.tree.leaves(current.params), strict=True)
    ):
        want, m, v = value, 0.0, 0.0
        rate = 0.03 if name == "encoding" else 0.01
        for count in (1, 2, 3):
            slope = 2.0 * 2.0 * (want - aim) + count  # the second weight is 1, 2, 3
            m, v = 0.8 * m + 0.2 * slope, 0.7 * v + 0.3 * slope**2
            change = m / (1 - 0.8**count) / (np.sqrt(v / (1 - 0.7**count)) + 0.5)
            want = want - rate * (change + 0.25 * want)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6, err_msg=f"{name} {index}")
    squares = sum(
        np.sum((a - b) ** 2) for a, b in zip(leaves, jax.tree.leaves(target), strict=True)
    )
    total = sum(np.sum(a) for a in leaves)
    first = found[0]
    np.testing.assert_allclose(first["guidance"], squares, rtol=1e-4)
    np.testing.assert_allclose(first["orientation"], total, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(first["total"], 2 * squares + total, rtol=1e-4)
    slopes = [4 * (a - b) + 1 for a, b in zip(leaves, jax.tree.leaves(target), strict=True)]
    norm = np.sqrt(sum(np.sum(g**2) for g in slopes))
    np.testing.assert_allclose(first["gradient"], norm, rtol=1e-4)
    assert [m["at"] for m in found] == [0, 1, 2] and int(current.step) == 3
    assert first["phase"] == 3 and first["skipped"] == 0 and int(current.skipped) == 0
    assert all(value.dtype == np.float32 for value in first.values())


def test_rates_end_at_their_share_in_the_second_half(cfg, simple):
    """Slopes of one sign, no epsilon and no decay: each update is the rate itself."""
    cfg.steps = 8
    cfg.optimizer.update(final=0.2, eps=1e-20, weight_decay=0.0)
    cfg.loss.update(guidance=0.0, orientation=(0, 1.0, 1.0, 10))
    current, fn = start(cfg, some(0)), iterate(cfg)
    rates = [1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2]
    for rate in rates:
        before = current.params
        current, _ = fn(current)
        change = jax.tree.map(lambda a, b: np.asarray(a - b), before, current.params)
        for group, full in (("encoding", 0.03), ("density", 0.01), ("colour", 0.01)):
            for leaf in jax.tree.leaves(change[group]):
                np.testing.assert_allclose(leaf, full * rate, rtol=1e-3)


def test_iterations_and_purposes_draw_differently(cfg, simple):
    cfg.occupancy.every = 1
    numbers = []
    for seed in (3, 4):
        cfg.seed = seed
        current, fn = start(cfg, some(0)), iterate(cfg)
        for _ in range(3):
            before = current.occs[0]
            current, metrics = fn(current)
            numbers += [float(metrics["draw"]), float(current.occs[0] - before) - 1.0]
    assert np.min(np.diff(np.sort(numbers))) > 1e-3, numbers
    again, metrics = fn(start(cfg, some(0)))  # the same iteration draws the same
    assert float(metrics["draw"]) == numbers[6]
    alone = jax.random.uniform(jax.random.fold_in(jax.random.key(4), 0))
    assert float(metrics["draw"]) != float(alone)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "slope"])
def test_an_iteration_that_is_not_finite_changes_no_parameter(cfg, simple, monkeypatch, bad):
    """Also where the loss is finite and only its slope is not."""
    true = step.sds_losses

    def losses(params, source, key, at, grid, **given):
        found, facts = true(params, None, key, at, grid, **given)
        if bad == "slope":  # the root of nothing: 0, with an infinite slope
            x = params["colour"]["in"][0, 0]
            broken = jnp.sqrt(jnp.where(at % 4 < 2, 0.0 * x, 4.0 + 0.0 * x))
        else:
            broken = jnp.where(at % 4 < 2, bad, 0.0)
        return found | {"guidance": found["guidance"] + broken}, facts

    monkeypatch.setattr(step, "sds_losses", losses)
    current, fn = start(cfg, some(0)), iterate(cfg)
    for at, (bad_one, skipped, in_a_row) in enumerate(
        [(1, 1, 1), (1, 2, 2), (0, 2, 0), (0, 2, 0), (1, 3, 1), (1, 4, 2)]
    ):
        before = jax.device_get(current)
        current, metrics = fn(current)
        same = [np.array_equal(a, b) for a, b in zip(
            jax.tree.leaves((before.params, before.opt_state)),
            jax.tree.leaves(jax.device_get((current.params, current.opt_state))), strict=True,
        )]  # fmt: skip
        assert all(same) if bad_one else not any(same)
        counts = (int(current.step), int(current.skipped), int(current.in_a_row))
        assert counts == (at + 1, skipped, in_a_row)
        assert float(metrics["skipped"]) == bad_one
        assert bool(np.isfinite(metrics["total"])) == (not bad_one or bad == "slope")


def test_the_grid_is_measured_in_every_so_manyeth_iteration(cfg, simple):
    cfg.occupancy.update(every=3, resolution=2)
    current, fn, changed, means = start(cfg, some(0)), iterate(cfg), [], []
    for _ in range(8):
        before = np.asarray(current.occs)
        current, metrics = fn(current)
        changed.append(not np.array_equal(before, current.occs))
        means.append(float(metrics["mean"]) * cfg.render.step_size)
    assert changed == [True, False, False] * 2 + [True, False]
    assert means[0] > 1.0 and means[3] > 2.0  # measured before it is looked through


def test_the_grid_is_measured_with_the_numbers_of_the_config(cfg, monkeypatch):
    cfg.occupancy.update(resolution=3, every=4, decay=0.5, threshold=0.125, warmup=17)
    cfg.field.update(radius=0.75, blob_scale=2.0)
    cfg.render.step_size = 0.25
    kept = {}

    def update(key, occs, density, at, **given):
        kept.update(given, key=key, at=at, density=density(jnp.full((1, 3), 0.3)))
        return occs + 1.0

    monkeypatch.setattr(occupancy, "update", update)
    current = state.start(make_spec(cfg))._replace(step=jnp.int32(8))
    monkeypatch.setattr(jax.lax, "cond", lambda on, yes, no, x: yes(x) if on else no(x))
    after = step.update_occupancy(current, jax.random.key(5), make_spec(cfg))
    np.testing.assert_array_equal(after.occs, np.ones(27))
    assert (kept["resolution"], kept["radius"], kept["step_size"]) == (3, 0.75, 0.25)
    assert (kept["decay"], kept["threshold"], kept["warmup"]) == (0.5, 0.125, 17)
    assert kept["at"] == 8 and kept["key"] == jax.random.key(5)
    want = field.density(current.params, jnp.full((1, 3), 0.3), make_spec(cfg).field)
    np.testing.assert_array_equal(kept["density"], want)
    same = step.update_occupancy(
        current._replace(step=jnp.int32(9)), jax.random.key(5), make_spec(cfg)
    )
    assert same.occs is current.occs


def test_weights_of_both_modes(cfg):
    cfg.loss.update(sparsity=0.5, opaque=(10, 0.0, 1.0, 20))
    found = {name: float(w) for name, w in step.loss_weights(make_spec(cfg), jnp.int32(15)).items()}
    want = {"guidance": 2.0, "orientation": 11.0, "sparsity": 0.5, "opaque": 0.5}
    assert found == want | {"reference_l2": 0.0}
    cfg.mode = "views"
    cfg.draft.update(mask=0.25, hull=3.0, orientation=0.0, sparsity=0.5, opaque=0.125)
    found = {name: float(w) for name, w in step.loss_weights(make_spec(cfg), jnp.int32(15)).items()}
    assert found == {"photometric": 1.0, "mask": 0.25, "hull": 3.0, "orientation": 0.0,
                     "sparsity": 0.5, "opaque": 0.125}  # fmt: skip


def test_a_draft_has_the_losses_of_views(cfg, simple, monkeypatch):
    cfg.mode = "views"
    true = step.sds_losses

    def losses(*args, **given):
        found, facts = true(*args, **given)
        return {"photometric": found["guidance"], "mask": 0.0 * found["guidance"]}, facts

    monkeypatch.setattr(step, "views_losses", losses)
    monkeypatch.setattr(step, "sds_losses", None)
    _, metrics = iterate(cfg)(start(cfg, some(0)))
    assert metrics["total"] == metrics["photometric"] > 0


class Unet:
    def fold_context(self, both):
        return jnp.sum(both, 0)

    def __call__(self, *inputs):
        return inputs[0]


jax.tree_util.register_static(Unet)


def test_a_program_runs_as_many_iterations_as_it_is_told(cfg, monkeypatch):
    cfg.max_bad_steps, cfg.phases = 3, ((9, 16, 5), (20, 16, 2))
    numbers = make_spec(cfg)

    def train_step(current, source, _key, *, spec, denoiser_spec, phase):
        assert spec == numbers and denoiser_spec is SPEC
        bad = (current.step >= 4).astype(jnp.int32)
        value = source.folded[0, 0] if isinstance(source, Denoiser) else source.mask[0]
        metrics = {"at": 10.0 + current.step, "source": value, "phase": jnp.float32(phase)}
        return current._replace(
            step=current.step + 1, in_a_row=bad * (current.in_a_row + 1)
        ), metrics  # fmt: skip

    monkeypatch.setattr(step, "train_step", train_step)
    denoiser = Denoiser(Unet(), None, jnp.full((1, 1, 4), 3.0), None)
    given = dict(capacity=12, spec=numbers, denoiser_spec=SPEC)
    current, record = step.run_steps(
        start(cfg, some(0)), denoiser, jnp.int32(3), KEY, phase=1, **given
    )
    assert int(current.step) == 3
    np.testing.assert_array_equal(record["at"], [10, 11, 12] + [0] * 9)
    np.testing.assert_array_equal(record["source"], [6.0] * 3 + [0] * 9)  # two groups of this phase
    np.testing.assert_array_equal(record["phase"][:3], 1)
    current, record = step.run_steps(current, denoiser, jnp.int32(12), KEY, phase=0, **given)
    assert int(current.step) == 7 and int(current.in_a_row) == 3  # three in a row are bad
    np.testing.assert_array_equal(record["at"], [13, 14, 15, 16] + [0] * 8)
    assert record["source"][0] == 15.0
    pictures = Pictures(*(jnp.full((1, 3), 7.0),) * 3, jnp.full(1, 7.0))
    fresh = start(cfg, some(0))
    assert (
        step.run_steps(fresh, pictures, jnp.int32(1), KEY, phase=0, **given)[1]["source"][0] == 7.0
    )
