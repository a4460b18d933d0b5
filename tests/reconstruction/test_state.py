"""What changes while a scene is optimised: how it starts, its optimizer, its file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.nerf import field
from iso3d_jax.reconstruction import state
from iso3d_jax.reconstruction.spec import make_spec


def changed(cfg):
    """A state of which no number is what it starts with."""
    current = state.start(make_spec(cfg))
    moved = jax.tree.map(lambda x: x + 3 if x.dtype == jnp.int32 else x * 2.0 + 1.0, current)
    return moved._replace(skipped=jnp.int32(5), in_a_row=jnp.int32(2))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_a_start_is_the_blob_of_the_seed_and_an_empty_grid(small_config):
    begin = state.start(make_spec(small_config))
    key = jax.random.key(small_config.seed)
    assert same(begin.params, field.init(key, make_spec(small_config).field))
    assert [int(x) for x in (begin.step, begin.skipped, begin.in_a_row)] == [0, 0, 0]
    assert begin.occs.shape == (16**3,) and not begin.occs.any()
    small_config.seed += 1
    other = state.start(make_spec(small_config))
    assert not same(begin.params["density"], other.params["density"])
    given = jax.tree.map(lambda x: x + 1.0, begin.params)
    mine = state.start(make_spec(small_config), given)
    assert same(mine.params, given)
    pairs = zip(jax.tree.leaves(mine.params), jax.tree.leaves(given), strict=True)
    assert not any(a is b for a, b in pairs)  # the buffers of a state are given away


def test_the_optimizer_has_a_rate_for_the_grid_and_one_for_the_networks(small_config):
    """The first update of Adam without decay is the rate, whatever the slope."""
    small_config.optimizer.update(encoding=0.5, networks=0.25, weight_decay=0.0, final=1.0)
    params = {
        "encoding": (jnp.ones(2),),
        "density": {"in": jnp.ones(3)},
        "colour": {"in": jnp.ones(1)},
    }
    tx = state.optimizer(make_spec(small_config))
    updates, _ = tx.update(jax.tree.map(lambda x: -4.0 * x, params), tx.init(params), params)
    np.testing.assert_allclose(updates["encoding"][0], 0.5, rtol=1e-5)
    np.testing.assert_allclose(updates["density"]["in"], 0.25, rtol=1e-5)
    np.testing.assert_allclose(updates["colour"]["in"], 0.25, rtol=1e-5)


def test_the_grid_of_a_state_has_the_config_s_threshold_and_step(small_config):
    small_config.occupancy.threshold, small_config.render.step_size = 0.1, 0.25
    current = state.start(make_spec(small_config))
    occs = jnp.full(16**3, 0.2).at[:100].set(0.05).at[100:200].set(0.15)
    grid = state.make_grid(current._replace(occs=occs), make_spec(small_config))
    np.testing.assert_array_equal(grid.occupied, np.arange(16**3) >= 100)
    np.testing.assert_allclose(grid.mean, np.mean(np.asarray(occs)) / 0.25, rtol=1e-5)


def test_every_number_of_a_state_comes_back_from_its_file(small_config, tmp_path):
    current, metadata = (
        changed(small_config),
        {"config": {"seed": 3}, "list": [1, 2.5, "x"]},
    )
    path = state.save(tmp_path, current, metadata)
    assert path == tmp_path / "state.npz" and state.exists(tmp_path)
    assert not state.exists(tmp_path / "other") and state.load_metadata(tmp_path) == metadata
    loaded = state.load(tmp_path, make_spec(small_config))
    assert jax.tree.structure(loaded) == jax.tree.structure(current) and same(loaded, current)
    assert state.load_step(tmp_path) == 3 and [p.name for p in tmp_path.iterdir()] == ["state.npz"]
    assert (int(loaded.skipped), int(loaded.in_a_row)) == (5, 2)


def test_a_file_without_one_of_its_arrays_is_refused(small_config, tmp_path):
    file = state.save(tmp_path, changed(small_config), {})
    with np.load(file) as data:
        whole = dict(data)
    for name in (".occs", ".step", ".skipped"):
        np.savez(file, **{k: v for k, v in whole.items() if k != name})
        with pytest.raises(UserError, match=rf"does not fit the config \({name}\)"):
            state.load(tmp_path, make_spec(small_config))
    with pytest.raises(UserError, match="does not fit the config"):
        small_config.occupancy.resolution = 8
        np.savez(file, **whole)
        state.load(tmp_path, make_spec(small_config))


def test_numbers_that_no_config_may_have_are_refused_with_their_file(small_config, tmp_path):
    begin = state.start(make_spec(small_config))
    state.save(tmp_path, begin, {"config": small_config.to_dict()})
    assert state.load_spec(tmp_path) == make_spec(small_config)
    state.save(tmp_path, begin, {"config": small_config.to_dict() | {"steps": "many"}})
    with pytest.raises(UserError, match=r"state\.npz: --config\.steps must be a whole number"):
        state.load_spec(tmp_path)
