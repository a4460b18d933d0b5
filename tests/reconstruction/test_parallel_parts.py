"""How rays, views and batches are split over devices; where there is one, nothing is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from iso3d_jax.core.errors import UserError
from iso3d_jax.reconstruction import parallel
from iso3d_jax.reconstruction.spec import make_spec


class Devices:
    """Stands for a mesh of that shape."""

    def __init__(self, monkeypatch, **shape):
        self.shape, self.axis_names = shape, tuple(shape)
        monkeypatch.setattr(parallel, "NamedSharding", lambda mesh, spec: spec)
        monkeypatch.setattr(jax.lax, "with_sharding_constraint", lambda x, spec: (x.shape, spec))


def test_axes_are_the_prime_factors_of_the_devices(monkeypatch):
    monkeypatch.setattr(parallel, "Mesh", lambda grid, names, axis_types: (grid, names, axis_types))
    for count, factors in ((12, (2, 2, 3)), (7, (7,)), (10, (2, 5)), (1, ()), (9, (3, 3))):
        grid, names, types = parallel.make_mesh(list(range(count)))
        assert grid.shape == factors and names == tuple(f"part{k}" for k in range(len(factors)))
        np.testing.assert_array_equal(grid.ravel(), np.arange(count))
        assert len(types) == len(factors)


def test_a_batch_is_split_over_the_axes_that_divide_it(monkeypatch):
    mesh = Devices(monkeypatch, part0=2, part1=2, part2=3)
    for rows, names in ((12, ("part0", "part1", "part2")), (8, ("part0", "part1")),
                        (2, ("part0",)), (6, ("part0",)), (3, None), (7, None)):  # fmt: skip
        assert parallel.split(mesh, jnp.zeros((rows, 5))) == ((rows, 5), P(names))
    assert parallel.gather(mesh, jnp.zeros((4, 5))) == ((4, 5), P())


def test_on_one_device_everything_stays_as_it_is():
    x = jnp.arange(6.0)
    assert parallel.split(None, x) is x and parallel.gather(None, x) is x
    assert parallel.replicate(None, x) is x and parallel.on_one(None, x) is x
    keys = tuple(jax.random.split(jax.random.key(0)))

    def fn(given, shared, rays):
        assert given is keys and shared == "all"
        return rays[0] + rays[1], {"mean": jnp.mean(rays[0])}

    values, scalars = parallel.map_rays(None, fn, keys, "all", (x, 2 * x))
    np.testing.assert_array_equal(values, 3 * x)
    np.testing.assert_array_equal(scalars["mean"], [2.5])


def test_which_configs_are_spread(small_config):
    cfg = small_config
    cfg.views, cfg.phases, cfg.draft.rays = 3, ((9, 4, 2), (20, 2, 3)), 120
    cfg.parallelism = "objects"
    assert parallel.mesh_for(make_spec(cfg), [1, 2, 3, 4]) is None
    cfg.parallelism = "views"
    assert parallel.mesh_for(make_spec(cfg), [1]) is None
    for devices, named in ((7, "120 rays of a draft"), (5, "6 renders of 4x4"),
                           (8, "9 renders of 2x2")):  # fmt: skip
        with pytest.raises(UserError, match=f"{devices} devices do not divide the {named}; hide"):
            parallel.mesh_for(make_spec(cfg), list(range(devices)))
    cfg.draft.rays = 36


def test_devices_that_divide_all_rays_are_a_mesh(small_config, monkeypatch):
    cfg = small_config
    cfg.views, cfg.phases, cfg.draft.rays, cfg.parallelism = 3, ((9, 4, 2), (20, 2, 3)), 36, "views"
    monkeypatch.setattr(parallel, "make_mesh", lambda devices: tuple(devices))
    assert parallel.mesh_for(make_spec(cfg), [4, 5, 6, 7]) == (4, 5, 6, 7)
    assert parallel.mesh_for(make_spec(cfg), list(range(6))) == (0, 1, 2, 3, 4, 5)
