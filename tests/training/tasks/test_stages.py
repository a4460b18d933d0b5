"""What the denoiser's task reads, shows and writes, with networks that only take notes."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from iso3d_jax import sampling
from iso3d_jax.core.errors import UserError
from iso3d_jax.data.encoded import EncodedTable
from iso3d_jax.data.table import MultiViewTable
from iso3d_jax.models.clip import CLIPConfig
from iso3d_jax.models.params import split_params
from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.models.vae import VAEConfig
from iso3d_jax.training import one_step_x0, sharding
from iso3d_jax.training.tasks import denoiser, registry, stages
from iso3d_jax.weights import bundle
from iso3d_jax.weights.model_spec import ModelSpec
from tests.small_training import small_stage

SIZE = 4


def held_out(objects=3, views=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (objects, views, SIZE, SIZE, 4)).astype(np.uint8)
    bounds = ((0, 360), (0, 30), (15, 60), (2, 8))  # azimuth, elevation, field of view, distance
    columns = [rng.uniform(*ends, (objects, views)) for ends in bounds]
    return MultiViewTable(images, *columns, [f"o{i}" for i in range(objects)])


def white(rgba):
    rgba = rgba / 255.0
    return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]


def positions(camera):
    return np.asarray(camera).reshape(-1, 4, 4)[:, :3, 3]


def standing(elevation, azimuth):
    e, a = np.radians(elevation), np.radians(azimuth)
    return np.stack([np.cos(e) * np.sin(a), -np.cos(e) * np.cos(a), np.sin(e)], -1)


def bare_task(**changes):
    """A task without weights or data."""
    task = object.__new__(stages.DenoiserTask)
    task.label, task.graphdef = "stage 2", "graphdef"
    numbers = dict(data="here", data_variants=3, sample_every=0)
    task.cfg = small_stage(**numbers | changes)
    task.config = ModelSpec(
        camera_encoding="mvdream", sampling_camera_encoding="mvdream", scale_factor=0.5,
        picture="framed", latent_size=2, latent_channels=3, context_dim=5, resolution=SIZE,
        unet=UNetConfig(in_channels=3),
    )  # fmt: skip
    return task


@pytest.mark.parametrize("views", [4, 8])
def test_a_preview_is_of_another_set_at_its_azimuths_from_the_first_picture(monkeypatch, views):
    """Without another set it is of the picture's own."""
    task, table, seen = bare_task(), held_out(views=views), []
    task.__dict__["held_out"] = table
    task.__dict__["frozen"] = bundle.Model(task.config, vae="vae", clip="clip")
    monkeypatch.setattr(stages, "merge_params", lambda graphdef, params: (graphdef, params))
    monkeypatch.setattr(sampling, "network_for", lambda model, picture: (model.unet, picture))
    monkeypatch.setattr(sampling, "embed_pictures", lambda model, pictures: (model.clip, pictures))
    monkeypatch.setattr(sampling, "settings", lambda config, steps: dict(steps=steps))

    def sample_latents(*a, **how):
        seen.append((*a, how))
        return jnp.full((1, 4, 2, 2, 3), len(seen))

    monkeypatch.setattr(sampling, "sample_latents", sample_latents)
    monkeypatch.setattr(
        sampling, "decode_views",
        lambda vae, z: jnp.broadcast_to(z[..., :1, :1, :1] / 10, (1, 4, SIZE, SIZE, 3)),
    )  # fmt: skip
    picture = task.preview({"w": 1})
    first = 4 if views == 8 else 0
    rows = []
    for i, (unet, context, camera, alphas, key, how) in enumerate(seen):
        reference = white(table.images[i, 0])
        assert unet[0] == ("graphdef", {"w": 1}) and context[0] == "clip"
        np.testing.assert_allclose(unet[1], reference, atol=1e-5)
        np.testing.assert_allclose(context[1][0], reference, atol=1e-5)
        azimuth = table.azimuth_deg[i, first : first + 4] - table.azimuth_deg[i, 0]
        want = standing(table.elevation_deg[i, first : first + 4], azimuth)
        np.testing.assert_allclose(positions(camera), want, atol=1e-5)
        np.testing.assert_array_equal(
            jax.random.key_data(key), jax.random.key_data(jax.random.key(i))
        )
        assert len(alphas) == 1000 and how == dict(steps=25)
        drawn = np.full((4, SIZE, SIZE, 3), 2 * (i + 1) / 10)
        rows.append([reference, *drawn, *white(table.images[i, first : first + 4])])
    assert len(rows) == 3 and picture.shape == (3 * 8 + 4, 9 * 8 + 4, 3)
    for y, row in enumerate(rows):
        for x, want in enumerate(row):
            cell = picture[4 + 8 * y : 8 + 8 * y, 4 + 8 * x : 8 + 8 * x]
            np.testing.assert_allclose(cell, want, atol=0.6 / 255)
    task.config = dataclasses.replace(task.config, steps=7)
    task.preview({"w": 1})
    assert seen[-1][-1] == dict(steps=7)


def test_the_table_of_one_step_is_of_another_set_counted_from_the_first_picture(monkeypatch):
    task, table, made = bare_task(), held_out(), []
    task.__dict__["held_out"] = table
    task.__dict__["frozen"] = bundle.Model(task.config, vae="vae", clip="clip")
    monkeypatch.setattr(one_step_x0.Probe, "make", lambda *a: made.append(a) or "probe")
    monkeypatch.setattr(stages, "merge_params", lambda graphdef, params: (graphdef, params))
    monkeypatch.setattr(one_step_x0, "ablate", lambda unet, probe: (unet, probe))
    monkeypatch.setattr(one_step_x0, "flatten", lambda found: {"seen": found})
    assert task.diagnose({"w": 1}) == {"seen": (("graphdef", {"w": 1}), "probe")}
    ((model, pictures, truth, azimuth, elevation, fov, distance),) = made
    assert (model.vae, model.clip) == ("vae", "clip")
    np.testing.assert_allclose(pictures, white(table.images[:, 0]), atol=1e-5)
    np.testing.assert_allclose(truth, white(table.images[:, 4:8]), atol=1e-5)
    np.testing.assert_allclose(azimuth, table.azimuth_deg[:, 4:8] - table.azimuth_deg[:, :1])
    np.testing.assert_array_equal(elevation, table.elevation_deg[:, 4:8])
    np.testing.assert_array_equal(fov, table.fov_deg[:, 4:8])
    np.testing.assert_array_equal(distance, table.distance[:, 4:8])
    single = bare_task()
    single.__dict__ |= {"held_out": held_out(views=4), "frozen": task.frozen}
    single.diagnose({})
    np.testing.assert_allclose(made[1][2], white(single.held_out.images[:, :4]), atol=1e-5)


def test_no_more_than_eight_objects_are_shown():
    task = bare_task()
    task.__dict__["held_out"] = held_out(objects=9)
    assert task.held_out_references.shape == (8, 4, SIZE, SIZE, 4)


def encoded(size=2, channels=3, width=5):
    return EncodedTable(
        np.zeros((2, 1, 4, size, size, 2 * channels), np.float16),
        np.zeros((2, 1, 4, width), np.float16), np.array([False, True]),
        np.zeros((1, 4)), np.zeros((1, 4)),
    )  # fmt: skip


def test_where_training_data_comes_from(monkeypatch):
    asked = []
    monkeypatch.setattr(stages, "EncodedSet", lambda path: asked.append(path) or encoded())
    assert bare_task(data_encoded="there")._table().num_views == 4 and asked == ["there"]
    both = bare_task(data_encoded="there,here", data_weights=(3, 1))._table()
    assert asked[1:] == ["there", "here"] and len(both) == 2
    assert both.weights.tolist() == [0.75, 0.25]
    monkeypatch.setattr(stages.MultiViewTable, "load", lambda *a: a)
    records = [{"azimuth_deg": np.zeros(4)}] * 2
    monkeypatch.setattr(stages, "open_dataset", lambda *a: asked.append(a) or tuple(records))
    monkeypatch.setattr(
        stages, "encode_table", lambda *a, **how: asked.append((*a, how)) or encoded()
    )
    frozen = types.SimpleNamespace(vae="vae", clip="clip")
    for changes, kept in (
        (dict(), False),
        (dict(sample_every=2), True),
        (dict(ablate_every=2), True),
    ):
        task = bare_task(**changes)
        task.__dict__["frozen"] = frozen
        task._table()
        how = dict(variants=3, pictures=("framed",), label="stage 2: encoding")
        assert asked[-1] == (("here", "train"), "vae", "clip", how)
        assert ("frozen" in task.__dict__) == kept  # what nothing needs any more is let go
    with pytest.raises(UserError, match=r"hold 0\.0 GB of latents in memory.*data here --out DIR"):
        monkeypatch.setattr(stages, "IN_MEMORY", 3 * 2 * 8 * 2 * (2 * 2 * 6 + 5) - 1)
        bare_task()._table()
    monkeypatch.setattr(stages, "IN_MEMORY", 3 * 2 * 8 * 2 * (2 * 2 * 6 + 5))
    task = bare_task()
    task.__dict__["frozen"] = frozen
    task._table()
    for loader, kind in (("grain", tuple), ("memory", list)):
        table = bare_task(encoding="online", loader=loader)._table()
        assert asked[-1] == ("here", "train") and type(table.records) is kind
        assert (table.variants, table.pictures) == (3, ("framed",))
    ways = ("framed", "centred")
    assert bare_task(encoding="online", pictures=ways)._table().pictures == ways


@pytest.mark.parametrize("changes", [dict(size=3), dict(channels=2), dict(width=6)])
def test_an_encoded_set_of_another_model_is_refused(changes):
    task = bare_task(data_encoded="there")
    task._check_encoded(encoded(), "there")
    with pytest.raises(UserError, match="encoded data set there has latents"):
        task._check_encoded(encoded(**changes), "there")
    task._check_size(SIZE)
    with pytest.raises(UserError, match=r"pictures of 5 pixels .* for 4: add .*resolution=5"):
        task._check_size(5)


def test_latents_pass_and_pictures_are_encoded_once_the_networks_are_there(monkeypatch):
    task, made = bare_task(), []
    task._encode = None
    task.__dict__["frozen"] = "frozen"
    monkeypatch.setattr(
        stages, "_online_encoder", lambda *a: made.append(a) or (lambda batch: {"encoded": batch})
    )
    assert task.on_devices({"moments": 1}, "mesh") == {"moments": 1} and made == []
    for _ in range(2):
        assert task.on_devices({"views": 1}, "mesh") == {"encoded": {"views": 1}}
    assert made == [("frozen", "mesh")]


def test_the_frozen_networks_come_from_where_the_config_says(monkeypatch):
    cfg = bare_task(init=dict(vae="v", clip="", drawing="")).cfg
    asked = []

    def load_model(path, dtype, networks):
        asked.append((path, dtype, networks))
        return bundle.Model(None, vae=f"vae of {path}", clip=f"clip of {path}")

    monkeypatch.setattr(bundle, "load_model", load_model)
    said = {
        "v": ModelSpec(vae=VAEConfig(ch=32), clip=CLIPConfig(heads=1), scale_factor=0.3),
        None: ModelSpec(vae=VAEConfig(ch=64), clip=CLIPConfig(heads=2), scale_factor=0.4),
    }
    monkeypatch.setattr(bundle, "load_config", lambda path: said[path])
    model = stages.load_frozen(cfg.init.vae, cfg.init.clip, cfg.dtype)
    assert asked == [("v", "float32", ("vae",)), (None, "float32", ("clip",))]
    assert (model.vae, model.clip) == ("vae of v", "clip of None")
    assert model.config == dataclasses.replace(said["v"], clip=CLIPConfig(heads=2))
    said[None] = ModelSpec(vae=VAEConfig())
    with pytest.raises(UserError, match="no section 'clip'"):
        stages.frozen_config("v", "")


def test_the_model_is_written_with_its_frozen_networks(monkeypatch, tmp_path):
    task, saved = bare_task(init=dict(vae="v", clip="", drawing="")), []
    monkeypatch.setattr(
        bundle, "load_weights", lambda path, names: {names[0]: f"{names[0]} of {path}"}
    )
    monkeypatch.setattr(bundle, "save_bundle", lambda *a: saved.append(a))
    task.export({"w": 1}, tmp_path)
    want = {"unet": {"w": 1}, "vae": "vae of v", "clip": "clip of None"}
    assert saved == [(tmp_path, task.config, want)]


def test_low_rank_changes_are_merged_for_all_that_is_shown_or_written(monkeypatch, tmp_path):
    monkeypatch.setattr(stages.trainable, "merge_lora", lambda params, cfg: ("merged", params))
    monkeypatch.setattr(stages, "merge_params", lambda graphdef, params: params)
    monkeypatch.setattr(one_step_x0, "ablate", lambda unet, probe: unet)
    monkeypatch.setattr(one_step_x0, "flatten", lambda found: found)
    saved = []
    monkeypatch.setattr(bundle, "load_weights", lambda path, names: {names[0]: None})
    monkeypatch.setattr(bundle, "save_bundle", lambda *a: saved.append(a[2]["unet"]))
    task = bare_task()
    task.__dict__["_probe"] = None
    assert task.diagnose("p") == ("merged", "p")
    task.export("p", tmp_path)
    assert saved == [("merged", "p")]
    seen = []
    monkeypatch.setattr(sampling, "network_for", lambda model, picture: seen.append(model.unet))
    monkeypatch.setattr(sampling, "embed_pictures", lambda *a: None)
    monkeypatch.setattr(sampling, "settings", lambda *a, **k: {})
    monkeypatch.setattr(sampling, "sample_latents", lambda *a: np.zeros((1, 4, 2, 2, 3)))
    monkeypatch.setattr(sampling, "decode_views", lambda *a: np.zeros((1, 4, SIZE, SIZE, 3)))
    task.__dict__ |= {"held_out": held_out(1), "frozen": bundle.Model(task.config)}
    task.preview("p")
    assert seen == [("merged", "p")]


def test_the_network_and_its_shapes_have_low_rank_weights_beside_those_that_are_loaded(make_stage):
    cfg = make_stage(trainable="lora")
    weights = {"b/attn1/to_q/kernel": jnp.ones((16, 16))}
    graphdef, shapes, init = stages.network(cfg, lambda: weights)
    made = init()
    assert set(made) == {"b/attn1/to_q/" + name for name in ("kernel", "lora_a", "lora_b")}
    assert any(path.endswith("to_q/lora_a") for path in shapes) and graphdef is not None
    plain = stages.network(make_stage(), lambda: weights)
    assert plain[2]() is weights and not any("lora" in path for path in plain[1])


def test_each_name_is_a_task(monkeypatch):
    monkeypatch.setattr(registry.config_checks, "check", lambda cfg: None)
    kinds = dict(autoencoder="AutoencoderTask", image_tower="ImageTowerTask",
                 sampled_views="SampledViewsTask", denoiser="DenoiserTask")  # fmt: skip
    assert set(registry.TASKS) == set(kinds)
    for name, kind in kinds.items():
        module, _, found = registry.TASKS[name].partition(":")
        assert found == kind
        monkeypatch.setattr(f"{module}.{kind}.from_config", lambda cfg, kind=kind: (kind, cfg.task))
        assert registry.make_task(ConfigDict(dict(task=name))) == (kind, name)


class Vae(nnx.Module):
    def __init__(self):
        self.factor = nnx.Param(jnp.array(2.0))

    def encode(self, x):
        return x * self.factor[...], jnp.zeros_like(x)


class Clip(nnx.Module):
    def __init__(self):
        self.factor = nnx.Param(jnp.array(3.0))

    def embed(self, pictures):
        return pictures.mean((1, 2)) * self.factor[...]


def test_a_batch_of_pictures_is_encoded_with_the_networks_that_are_frozen():
    frozen = types.SimpleNamespace(vae=Vae(), clip=Clip())
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    encode = stages._online_encoder(frozen, mesh)
    rng = np.random.default_rng(0)
    batch = {
        "views": rng.integers(0, 256, (2, 3, 4, 4, 4)).astype(np.uint8),
        "prepared": rng.integers(0, 256, (2, 4, 4, 4)).astype(np.uint8),
        "colour": np.zeros(2, np.int32), "object": np.arange(2, dtype=np.int32),
    }  # fmt: skip
    found = encode(batch)
    np.testing.assert_allclose(
        found["moments"][..., :3], 2 * (2 * white(batch["views"]) - 1), atol=0.01
    )
    np.testing.assert_allclose(
        found["embedding"], 3 * white(batch["prepared"]).mean((1, 2)), atol=0.01
    )


def test_shapes_are_those_of_the_network_as_it_is_trained(make_stage):
    for override in ({}, {"remat": "blocks"}, {"dtype": "bfloat16"}):
        cfg = make_stage(**override)
        graphdef, params = split_params(denoiser.build_unet(cfg))
        abstract = denoiser.abstract_unet(cfg)
        assert abstract[0] == graphdef
        assert {k: (v.shape, v.dtype) for k, v in abstract[1].items()} == {
            k: (v.shape, v.dtype) for k, v in params.items()
        }
