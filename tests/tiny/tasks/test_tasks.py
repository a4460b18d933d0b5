"""The tasks of the small model's networks: what they show, measure and write."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.presets import autoencoder as autoencoder_preset
from iso3d_jax.presets import decoder as decoder_preset
from iso3d_jax.presets import image_tower as image_tower_preset
from iso3d_jax.tiny import spatial_prior
from iso3d_jax.tiny.tasks import autoencoder, image_tower, sampled_views
from iso3d_jax.tiny.tasks.autoencoder import AutoencoderSpec, AutoencoderTask
from iso3d_jax.tiny.tasks.image_tower import ImageTowerSpec, ImageTowerTask
from iso3d_jax.tiny.tasks.sampled_views import SampledViewsSpec, SampledViewsTask
from iso3d_jax.training import sharding
from iso3d_jax.training.spec import make_spec
from iso3d_jax.training.tasks import base
from iso3d_jax.training.tasks.task import BaseTask
from iso3d_jax.weights import bundle
from iso3d_jax.weights.model_spec import ModelSpec

SIZE = 8


def a_table(objects=10, views=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (objects, views, SIZE, SIZE, 4)).astype(np.uint8)
    nothing = np.zeros((objects, views))
    return MultiViewTable(images, nothing, nothing, nothing, nothing, ["x"] * objects)


def white(rgba):
    rgba = rgba / 255.0
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def cells(picture, rows, columns):
    """[rows, columns, SIZE, SIZE, 3] of a sheet in [0, 1]."""
    assert picture.shape == (rows * (SIZE + 4) + 4, columns * (SIZE + 4) + 4, 3)
    starts = 4 + np.arange(max(rows, columns)) * (SIZE + 4)
    return np.array(
        [[picture[y : y + SIZE, x : x + SIZE] for x in starts[:columns]] for y in starts[:rows]]
    )


@jax.tree_util.register_static
class Vae:
    """Latents twice the picture with log-variance 0; drawn 0.1 darker."""

    def encode(self, x):
        return 2.0 * x, jnp.zeros_like(x)

    def decode(self, z):
        return z / 2.0 - 0.2


def test_what_tasks_have_in_common():
    task = BaseTask()
    task.label = "autoencoder"
    task.init_params = {"w": jnp.ones((2, 3))}
    task.batches = types.SimpleNamespace(branch=lambda step: f"views {step}")
    assert task.branch(3) == "views 3" and task.trained({}) is None
    assert task.abstract_params["w"].shape == (2, 3)
    assert task.position() == {} and task.names(0) == [] and task.restore_position({}) is None
    assert task.on_devices("batch", None) == "batch"
    assert task.sharding_rules == sharding.REPLICATED and task.summary == ""
    task.batches = lambda step: {"x": np.arange(10) + 100 * step, "y": np.arange(10)}
    rows = task.batch(2, np.array([1, 4]))
    assert rows["x"].tolist() == [201, 204] and rows["y"].tolist() == [1, 4]
    with pytest.raises(UserError, match="is for stages 1 and 2, not for the autoencoder"):
        task.diagnose({})


@pytest.fixture
def loaded(monkeypatch):
    """Splits by the seed of their random pictures."""
    seeds = {("here", "train"): 1, ("here", "validation"): 2, ("there", "train"): 3,
             ("there", "validation"): 4}  # fmt: skip

    def load(path, split, most=None):
        table = a_table(seed=seeds[path, split])
        columns = (getattr(table, field.name)[:most] for field in dataclasses.fields(table))
        return MultiViewTable(*columns)

    monkeypatch.setattr(MultiViewTable, "load", load)
    for module in (autoencoder, image_tower, sampled_views):
        monkeypatch.setattr(module, "split_params", lambda net: ("graph", {"net": net}))
        monkeypatch.setattr(module, "merge_params", lambda graph, params: params["net"])


def autoencoder_spec(init_from=""):
    cfg = autoencoder_preset.get_config()
    cfg.update(data="here", init_from=init_from, seed=9)
    return make_spec(AutoencoderSpec, cfg)


def test_a_new_autoencoders_latents_get_a_scale_of_their_own(loaded, monkeypatch):
    made = []
    monkeypatch.setattr(bundle, "make_config", lambda model: model)
    monkeypatch.setattr(bundle, "build_network", lambda *a: made.append(a) or Vae())
    monkeypatch.setattr(autoencoder, "find_components", lambda *a: made.append(a))
    cfg = autoencoder_spec()
    task = AutoencoderTask(cfg)
    (built, found) = made
    assert built == ("vae", cfg.model, 9) and found[2] is cfg
    np.testing.assert_array_equal(found[1].images, a_table(seed=1).images)
    # The first view of each object: means of twice the picture, and a posterior variance of 1.
    latents = 2 * (2 * white(a_table(seed=1).images[:64, 0]) - 1)
    assert task.config.scale_factor == pytest.approx(1 / np.sqrt(latents.var() + 1), rel=1e-4)
    assert task.trained({"decoder/a": 1, "encoder/a": 1, "post_quant_conv/a": 1}) == [
        "decoder/a", "post_quant_conv/a"
    ]  # fmt: skip
    assert isinstance(task.batches, autoencoder.Batches) and task.batches.table is task.table


def test_an_autoencoder_that_goes_on_keeps_its_scale(loaded, monkeypatch):
    monkeypatch.setattr(bundle, "load_config", lambda path: ModelSpec(scale_factor=0.3))
    monkeypatch.setattr(
        bundle, "load_model", lambda path, networks: types.SimpleNamespace(vae=(path, networks))
    )
    monkeypatch.setattr(autoencoder, "find_components", None)
    task = AutoencoderTask(autoencoder_spec("base"))
    assert task.config.scale_factor == 0.3 and task.init_params == {"net": ("base", ("vae",))}
    # Eight objects of the validation split, two views each: as they are, above what is decoded.
    task.init_params = {"net": Vae()}
    found = cells(task.preview(task.init_params), 2, 16)
    truth = white(a_table(seed=2).images[:8, :2].reshape(16, SIZE, SIZE, 4))
    np.testing.assert_allclose(found[0], truth, atol=0.6 / 255)
    np.testing.assert_allclose(found[1], np.clip(truth - 0.1, 0, 1), atol=0.6 / 255)


def test_each_task_writes_its_own_network(monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(bundle, "save_bundle", lambda *a, **how: saved.append((*a, how)))
    monkeypatch.setattr(bundle, "make_config", lambda model: ("made of", model))
    single = {"dtype": jnp.float32}
    task = object.__new__(AutoencoderTask)
    task.config = "config"
    task.export({"w": 1}, tmp_path)
    assert saved.pop() == (tmp_path, "config", {"vae": {"w": 1}}, single)
    task = object.__new__(ImageTowerTask)
    task.cfg = tower_spec()
    task.export({"tower/a": 1, "decoder/b": 2, "decoder/tower/c": 3}, tmp_path)
    want = {"clip": {"a": 1}, spatial_prior.DRAWING: {"b": 2, "tower/c": 3}}
    assert saved.pop() == (tmp_path, ("made of", task.cfg.model), want, single)
    task = object.__new__(SampledViewsTask)
    task.model = types.SimpleNamespace(config="config", unet="U", clip="C")
    monkeypatch.setattr(sampled_views, "split_params", lambda net: (None, net))
    task.export("V", tmp_path)
    assert saved.pop() == (tmp_path, "config", {"unet": "U", "clip": "C", "vae": "V"}, {})


def tower_config(init_from=""):
    cfg = image_tower_preset.get_config()
    cfg.update(data="here,there", init_from=init_from, seed=9)
    cfg.model.update(resolution=SIZE, clip=dict(output_dim=5))
    return cfg


def tower_spec(init_from=""):
    return make_spec(ImageTowerSpec, tower_config(init_from))


def sampled_views_spec(init_from=""):
    cfg = decoder_preset.get_config()
    cfg.update(data="here,there", init_from=init_from)
    return make_spec(SampledViewsSpec, cfg)


@pytest.fixture
def tower(loaded, monkeypatch):
    """What building an image tower's task asks for."""
    asked = []

    def batches(cfg, table, lengths, size):
        assert lengths == [10, 10] and size == 16
        return asked.append(table) or "batches"

    monkeypatch.setattr(image_tower, "Batches", batches)
    monkeypatch.setattr(bundle, "build_network", lambda *a: asked.append(a) or "tower")
    monkeypatch.setattr(
        image_tower, "Drawing", lambda *a, rngs: asked.append((a, rngs)) or "decoder"
    )
    monkeypatch.setattr(image_tower, "TowerWithDecoder", lambda *a: a)
    monkeypatch.setattr(
        image_tower, "split_params",
        lambda module: (module, {"tower/a": jnp.zeros(2), "decoder/b": jnp.zeros(3)}),
    )  # fmt: skip
    return asked


def test_a_tower_is_trained_on_all_sets_with_a_decoder_beside_it(tower):
    cfg = tower_spec()
    task = ImageTowerTask(cfg)
    table, held_out, built, (drawing, rngs) = tower
    for found, seeds in ((held_out, (2, 4)), (table, (1, 3))):
        want = np.concatenate([a_table(seed=seed).images for seed in seeds])
        np.testing.assert_array_equal(found.images, want)
    assert built == ("clip", cfg.model, 9) and drawing == (16, 5, 16)
    want = jax.random.key_data(image_tower.nnx.Rngs(10)())
    np.testing.assert_array_equal(jax.random.key_data(rngs()), want)
    assert task.graphdef == ("tower", "decoder")


def test_no_way_of_preparing_references_is_refused():
    """Stages have their model's way then; here there is none."""
    for task, spec in ((ImageTowerTask, tower_spec()), (SampledViewsTask, sampled_views_spec("x"))):
        with pytest.raises(UserError, match="config.pictures: .* give one or more, as in"):
            task(dataclasses.replace(spec, pictures=()))


def test_a_tower_of_a_config_says_what_it_changes_of_its_base(tower, monkeypatch, capsys):
    cfg = tower_config()
    other = tower_config()
    other.model.camera_encoding = "mvdream"
    settled = make_spec(ImageTowerSpec, other)
    monkeypatch.setattr(base, "settle", lambda spec: (settled, base.Inheritance("", ("a change",))))
    task = ImageTowerTask.from_config(cfg)
    assert "image tower: a change" in capsys.readouterr().out
    assert task.cfg is settled and cfg == tower_config()


def test_a_tower_goes_on_from_weights_that_fit(tower, monkeypatch):
    stored = {"clip": {"a": np.full(2, 5, np.float16)}}
    drawing = {"b": np.full(3, 6, np.float16)}
    monkeypatch.setattr(bundle, "load_weights", lambda path, names: stored)
    monkeypatch.setattr(spatial_prior, "load_drawing", lambda path: drawing)
    params = ImageTowerTask(tower_spec("base")).init_params
    assert {k: (float(w[0]), w.dtype) for k, w in params.items()} == {
        "tower/a": (5.0, jnp.float32), "decoder/b": (6.0, jnp.float32)
    }  # fmt: skip
    drawing["b"] = np.zeros(4)
    with pytest.raises(UserError, match="base has no image tower with a drawing decoder"):
        ImageTowerTask(tower_spec("base"))


def test_a_towers_preview_is_the_picture_what_is_drawn_and_the_truth(monkeypatch):
    task = object.__new__(ImageTowerTask)
    task.cfg, task.graphdef = tower_spec(), None
    rng = np.random.default_rng(0)
    batch = {
        "reference": rng.integers(0, 256, (10, SIZE, SIZE, 4)).astype(np.uint8),
        "views": rng.integers(0, 256, (10, 2, SIZE, SIZE, 4)).astype(np.uint8),
        "camera": rng.random((10, 2, 16)).astype(np.float32),
    }
    task.held_out = lambda step: batch if step == 0 else None
    seen = []

    def draw(embedding, camera):
        seen.append((embedding, camera))
        return jnp.ones((8, 2, SIZE, SIZE, 4)) * jnp.array([0.2, 0.3, 0.1, 0.4])  # premultiplied

    model = types.SimpleNamespace(
        tower=types.SimpleNamespace(embed=lambda pictures: ("embedding of", pictures)), decoder=draw
    )
    monkeypatch.setattr(image_tower, "merge_params", lambda graph, params: model)
    found = cells(task.preview({}), 8, 5)
    references = white(batch["reference"][:8])
    np.testing.assert_allclose(seen[0][0][1], references, atol=1e-5)
    np.testing.assert_array_equal(seen[0][1], batch["camera"][:8])
    np.testing.assert_allclose(found[:, 0], references, atol=0.6 / 255)
    np.testing.assert_allclose(
        found[:, 1:3], np.ones((8, 2, SIZE, SIZE, 3)) * [0.8, 0.9, 0.7], atol=0.6 / 255
    )
    np.testing.assert_allclose(found[:, 3:], white(batch["views"][:8]), atol=0.6 / 255)


def test_the_decoder_of_sampled_views_needs_a_model_and_samples_of_all_sets(loaded, monkeypatch):
    with pytest.raises(UserError, match="needs --config.init_from=DIR"):
        SampledViewsTask(sampled_views_spec())
    asked = []
    model = types.SimpleNamespace(vae=Vae())
    monkeypatch.setattr(bundle, "load_model", lambda path: asked.append(path) or model)
    views = np.random.default_rng(5).integers(0, 256, (20, SIZE, SIZE, 3)).astype(np.uint8)
    latents = 4 * (views / 255.0).astype(np.float32) - 2

    def draw_samples(*arguments):
        asked.append(arguments)
        return latents, views

    monkeypatch.setattr(sampled_views, "draw_samples", draw_samples)
    cfg = sampled_views_spec("base")
    task = SampledViewsTask(cfg)
    assert asked[0] == "base" and asked[1][0] is model and asked[1][2] is cfg
    want = np.concatenate([a_table(seed=seed).images for seed in (1, 3)])
    np.testing.assert_array_equal(asked[1][1].images, want)
    assert task.trained({"decoder/a": 1, "encoder/a": 1}) == ["decoder/a"]
    found = cells(task.preview({"net": Vae()}), 2, 16)
    np.testing.assert_allclose(found[0], np.clip(views[:16] / 255 - 0.1, 0, 1), atol=0.6 / 255)
    np.testing.assert_allclose(found[1], views[:16] / 255, atol=0.6 / 255)
