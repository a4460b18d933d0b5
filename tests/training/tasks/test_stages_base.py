"""What the denoiser's task takes of a base's weights, and what starts anew."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.registry import PriorWeights
from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.training.tasks import stages
from iso3d_jax.weights import bundle
from iso3d_jax.weights.model_spec import ModelSpec
from tests.small_training import small_stage


def bare_task(init_from="base", drawing="", channels=0):
    """A task without weights or data."""
    task = object.__new__(stages.DenoiserTask)
    task.cfg = small_stage(
        init_from=init_from, init=dict(drawing=drawing),
        model=dict(unet=dict(reference_channels=channels)),
    )  # fmt: skip
    task.config = ModelSpec(unet=UNetConfig(in_channels=3, reference_channels=channels))
    return task


STEM = "input_blocks/0/stem/kernel"


def loading(monkeypatch, stored, wanted, task):
    """What `_load_init` makes of a base's weights where the network wants these shapes."""
    monkeypatch.setattr(
        bundle, "load_weights", lambda path, names, dtype=None: {"unet": dict(stored)}
    )
    shapes = {path: types.SimpleNamespace(shape=shape) for path, shape in wanted.items()}
    monkeypatch.setattr(bundle, "abstract_network", lambda name, config: (None, shapes))
    monkeypatch.setattr(bundle, "load_network", lambda name, config, weights, source: weights)
    monkeypatch.setattr(stages, "split_params", lambda x: (None, x))
    fresh = {path: np.full(shape, 7.0) for path, shape in wanted.items()}
    monkeypatch.setattr(stages.denoiser, "build_unet", lambda cfg: fresh)
    return task._load_init()


def test_a_base_gives_its_weights_and_what_it_lacks_starts_anew(monkeypatch):
    task = bare_task()
    wanted = {STEM: (3, 3, 3, 8), "layout/a": (2,), "layout/drawing/b": (2,), "shortcut/c": (2,)}
    stored = {STEM: np.ones((3, 3, 3, 8)), "layout/a": np.ones(2)}
    found = loading(monkeypatch, stored, wanted, task)
    assert set(found) == {STEM, "layout/a", "shortcut/c"}  # the layout is the base's as it is
    assert (found["shortcut/c"] == 7).all() and (found[STEM] == 1).all()
    with pytest.raises(UserError, match="base has no weights for 'unet'"):
        loading(monkeypatch, {}, wanted, task)
    assert set(loading(monkeypatch, {}, wanted, bare_task(init_from=""))) == set(wanted)


def test_channels_for_the_reference_start_without_effect_behind_the_latents(monkeypatch):
    task = bare_task(channels=2)
    stored = {STEM: np.ones((3, 3, 3, 8), np.float16)}
    stem = loading(monkeypatch, stored, {STEM: (3, 3, 5, 8)}, task)[STEM]
    assert stem.shape == (3, 3, 5, 8) and stem.dtype == jnp.float32
    assert (stem[:, :, :3] == 1).all() and not stem[:, :, 3:].any()
    # A base that has such channels keeps them.
    stored = {STEM: np.ones((3, 3, 5, 8), np.float16)}
    assert (loading(monkeypatch, stored, {STEM: (3, 3, 5, 8)}, task)[STEM] == 1).all()


def prior_from(monkeypatch, load):
    """Whatever the UNet is, its prior slot takes what `load` brings."""
    network = types.SimpleNamespace(
        prior=PriorWeights("layout/drawing/", load, lambda numbers, width: None)
    )
    monkeypatch.setattr(stages.registry, "find_by_numbers", lambda section, numbers: network)


def test_a_drawing_takes_the_layouts_place_if_all_of_it_fits(monkeypatch):
    task = bare_task(drawing="tower")
    wanted = {STEM: (3, 3, 3, 8), "layout/a": (2,), "layout/drawing/b": (2,)}
    stored = {path: np.ones(shape) for path, shape in wanted.items()}
    prior_from(monkeypatch, lambda source: {"b": np.full(2, 5.0)})
    found = loading(monkeypatch, stored, wanted, task)
    assert (found["layout/drawing/b"] == 5).all() and (found["layout/a"] == 1).all()
    for other in ({"b": np.zeros(3)}, {"b": np.zeros(2), "c": np.zeros(2)}, {}):
        prior_from(monkeypatch, lambda source, other=other: other)
        with pytest.raises(UserError, match="tower has no drawing decoder that fits"):
            loading(monkeypatch, stored, wanted, task)
    prior_from(monkeypatch, lambda source: {})
    with pytest.raises(UserError, match="no drawing decoder that fits"):  # nor a place for one
        loading(monkeypatch, stored, {STEM: (3, 3, 3, 8)}, task)
    monkeypatch.undo()
    with pytest.raises(UserError, match="no drawing decoder that fits"):  # nor a slot
        loading(monkeypatch, stored, wanted, task)
