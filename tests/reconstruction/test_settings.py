"""From a config to specifications; what a continued run must share with the run before."""

import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from iso3d_jax.core.errors import UserError
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.nerf.hash_grid import HashGridSpec
from iso3d_jax.nerf.render import RenderSpec
from iso3d_jax.reconstruction import settings
from iso3d_jax.reconstruction.spec import make_spec


def test_the_field_s_numbers_are_the_config_s(small_config):
    small_config.field.update(levels=3, features=4, log2_table_size=9, base_resolution=5)
    small_config.field.update(growth=1.6, hidden=7, radius=0.8, blob_scale=6.0, blob_std=0.4)
    want = FieldSpec(3, 4, 9, 5, 1.6, 7, 0.8, 6.0, 0.4)
    assert make_spec(small_config).field == want and want.grid == HashGridSpec(3, 4, 9, 5, 1.6)
    assert want.grid.levels == 3 and want.grid.features == 4 and want.grid.log2_table_size == 9
    assert want.blob_scale == 6.0 and want.hidden == 7 and want.radius == 0.8


def test_the_render_s_numbers_are_the_config_s(small_config):
    given = dict(step_size=0.1, bound="box", candidates=12.0, samples=6.0, normals=3.0,
                 alpha_threshold=0.02, early_stop=0.003, chunk=80)  # fmt: skip
    small_config.render.update(given)
    assert make_spec(small_config).rays == RenderSpec(**given)
    small_config.memory = "low"
    low = make_spec(small_config).rays
    assert low == RenderSpec(**given | {"chunk": 20})
    half = dict(step_size=0.05, alpha_threshold=0.01)
    assert make_spec(small_config).rays_shown == RenderSpec(**given | half | {"chunk": 20})
    small_config.memory = "normal"
    assert make_spec(small_config).rays_shown == RenderSpec(**given | half)
    assert make_spec(small_config).rays.chunk == 80


def test_a_spec_is_a_key_of_compiled_programs(small_config):
    """Whether its config came from a file with lists for tuples or not; and it is the config."""
    spec = make_spec(small_config)
    assert spec.to_dict() == small_config.to_dict()
    stored = json.loads(json.dumps(small_config.to_dict()))
    assert make_spec(stored) == spec and hash(make_spec(stored)) == hash(spec)
    small_config.guidance.scale = 9.0
    assert spec.guidance.scale == 1.3 and make_spec(small_config) != spec
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.steps = 3


def test_a_config_of_something_else_is_refused(small_config):
    stored = small_config.to_dict()
    stored["show"]["density_scale"] = 1.0
    with pytest.raises(UserError, match="ShowSpec has no field density_scale"):
        make_spec(stored)
    del stored["show"]
    with pytest.raises(UserError, match="no config of a reconstruction by this version"):
        make_spec(stored)


def test_phases_have_to_reach_the_last_iteration(small_config):
    make_spec(small_config)
    small_config.phases = ((5, 16, 1), (20, 16, 1))
    make_spec(small_config)
    small_config.phases = ((5, 16, 1), (19, 16, 1))
    with pytest.raises(UserError, match=r"end at iteration 19 but config\.steps is 20.*steps=20"):
        make_spec(small_config)


def test_phases_by_iteration(small_config):
    small_config.phases, small_config.steps = ((5, 16, 1), (9, 32, 2), (50, 64, 3)), 20
    phases = [make_spec(small_config).phase_at(step) for step in (0, 4, 5, 8, 9, 19)]
    assert phases == [0, 0, 1, 1, 2, 2]
    assert [make_spec(small_config).phase_end(phase) for phase in range(3)] == [5, 9, 20]


def test_what_a_continued_run_may_change(small_config):
    """Free keys whenever; live keys while iterations are left; nothing else."""
    base = small_config.to_dict()
    for name, free, live in (
        ("save_every", 1, 1), ("preview_every", 1, 1), ("steps_per_call", 1, 1), ("show", 1, 1),
        ("max_bad_steps", 1, 1), ("memory", 1, 1), ("video", 1, 1), ("mesh", 1, 1),
        ("seed", 0, 1), ("optimizer.encoding", 0, 1), ("optimizer.networks", 0, 1),
        ("guidance.scale", 0, 1), ("guidance.rescale", 0, 0), ("draft.networks", 0, 0),
        ("steps", 0, 0), ("optimizer.eps", 0, 0),
    ):  # fmt: skip
        other = ConfigDict(base).to_dict()
        *folders, key = name.split(".")
        inner = other
        for folder in folders:
            inner = inner[folder]
        inner[key] = "other"
        same = settings.comparable(other) == settings.comparable(base)
        assert same == bool(live), name
        same = settings.comparable(other, live=True) == settings.comparable(base, live=True)
        assert same == bool(free), name
    draft = base | {"mode": "views"}
    other = ConfigDict(draft).to_dict()
    other["draft"]["networks"] = 9.0
    assert settings.comparable(other) == settings.comparable(draft)
    assert settings.live_keys(draft) == (*settings.LIVE_KEYS, "draft.networks")
    lists = base | {"phases": [list(phase) for phase in base["phases"]]}
    assert settings.comparable(lists) == settings.comparable(base)
    bare = {"mode": "sds", "seed": 1}  # as of another program's file
    assert settings.comparable(bare) == {"mode": "sds"} and bare["seed"] == 1


def test_changes_have_the_iteration_and_both_values(small_config):
    before = small_config.to_dict()
    small_config.guidance.scale = 7.0
    small_config.optimizer.networks = 0.5
    small_config.steps = 99  # no such key: it is refused elsewhere
    assert settings.changes(before, small_config.to_dict(), 12) == [
        {"iteration": 12, "key": "optimizer.networks", "from": 0.01, "to": 0.5},
        {"iteration": 12, "key": "guidance.scale", "from": 1.3, "to": 7.0},
    ]
