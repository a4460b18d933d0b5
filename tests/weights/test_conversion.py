"""Layouts are recognised and matched strictly; what goes out comes back bit for bit."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.clip import CLIPConfig
from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.models.vae import VAEConfig
from iso3d_jax.weights import facts
from iso3d_jax.weights.bundle import load_config, load_model, load_weights, save_bundle
from iso3d_jax.weights.conversion import find_parts
from iso3d_jax.weights.exporting import export_compact, export_diffusers, export_torch
from iso3d_jax.weights.importing import import_weights
from iso3d_jax.weights.rules import Rule, plan
from iso3d_jax.weights.safetensors_file import write_safetensors
from iso3d_jax.weights.tensors import LazyTensor, open_tensors
from iso3d_jax.weights.torch_file import read_facts, write_torch

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINT = GOLDEN / "isotropic3d_tiny_fp16.ckpt"
TOWER = "cond_stage_model.model.visual."


def write(path, values):
    writer = write_safetensors if path.suffix == ".safetensors" else write_torch
    writer(path, [(key, v.shape, v.dtype, lambda v=v: v) for key, v in values.items()])
    return str(path)


@pytest.fixture(scope="module")
def tower(golden_tensors):
    """The golden vision tower's arrays, under open_clip's keys."""
    return {k.removeprefix(TOWER): t.read() for k, t in golden_tensors.items() if TOWER in k}


def test_architecture_is_read_off_the_shapes(converted, arch):
    config, folder = converted
    assert config.unet.channel_mult == (1, 2) and config.unet.num_head_channels == 32
    assert (config.clip.width, config.clip.layers, config.clip.heads) == (64, 2, 2)
    assert (config.vae.ch, config.vae.ch_mult) == (32, (1, 1, 2))
    assert config.camera_encoding == "isotropic3d" and config.parameterization == "eps"
    assert config.sampling_camera_encoding == "isotropic3d_sampling"  # the released file's alone
    assert (config.scale_factor, config.picture, config.eta) == (0.18215, "launch", 1.0)
    assert (config.resolution, config.latent_size, config.context_dim) == (64, 16, 48)
    assert load_config(folder).unet.context_dim == 48


def fakes(shapes):
    return {
        key: LazyTensor(Path("none"), 0, tuple(shape), np.dtype(np.float32))
        for key, shape in shapes.items()
    }


def full_size_shapes():
    lines = (GOLDEN / "reference_state_dict.txt").read_text().splitlines()
    shapes = {key: json.loads(shape) for key, shape in (line.split(" ", 1) for line in lines)}
    assert len(shapes) == 1348
    return {key: shape for key, shape in shapes.items() if shape != [1000]}


def test_full_size_file_is_the_default_architecture():
    layout, parts = find_parts(fakes(full_size_shapes()), {}, "isotropic3d.ckpt")
    assert layout == "isotropic3d"
    assert [part.config for part in parts] == [UNetConfig(), VAEConfig(), CLIPConfig()]
    assert [len(part.matches) for part in parts] == [690, 248, 392]


def test_mvdream_layout_has_cameras_and_a_text_tower(golden_tensors, arch):
    tensors = {k: t for k, t in golden_tensors.items() if TOWER not in k}
    tensors |= fakes({"cond_stage_model.model.transformer.resblocks.0.ln_1.weight": [1024]})
    layout, parts = find_parts(tensors, arch, "sd-v2.1-base-4view.pt")
    assert layout == "mvdream" and [part.network for part in parts] == ["unet", "vae"]


def test_round_trip_is_bit_exact(converted, golden_tensors, tmp_path):
    notes = export_torch(converted[1], tmp_path / "back.ckpt")
    assert notes == []
    back = open_tensors(tmp_path / "back.ckpt")
    assert back.keys() == golden_tensors.keys()
    for key, tensor in golden_tensors.items():
        assert back[key].dtype == np.float32
        np.testing.assert_array_equal(back[key].read(), tensor.read(), err_msg=key)


@pytest.mark.parametrize(
    "said",
    [
        dict(camera_encoding="mvdream", parameterization="v", eta=0.0, guidance_scale=3.0),
        dict(camera_encoding="isotropic3d", base_camera_encoding="mvdream", steps=20),
        dict(camera_encoding="isotropic3d", sampling_camera_encoding="isotropic3d_sampling"),
    ],
)
def test_a_model_keeps_what_it_says_of_itself(converted, tmp_path, said):
    """There and back by the authors' layout, whose keys are the released file's; and compact."""
    config, folder = converted
    own = {k: v for k, v in config.to_dict().items() if k not in facts.CAMERAS} | said
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "model.json").write_text(json.dumps(own))
    (mine / "model.safetensors").symlink_to(folder / "model.safetensors")
    notes = export_torch(mine, tmp_path / "mine.ckpt")
    drifts = "sampling_camera_encoding" in said
    assert any("drift" in note for note in notes) == (
        said["camera_encoding"] == "isotropic3d" and not drifts
    )
    arch = {"unet": {"num_head_channels": 32}, "clip": {"heads": 2}}
    back = import_weights([str(tmp_path / "mine.ckpt")], tmp_path / "back", arch).to_dict()
    export_compact(mine, tmp_path / "compact")
    for again in (back, load_config(tmp_path / "compact").to_dict()):
        assert {k: v for k, v in again.items() if "camera" in k} == {
            k: v for k, v in said.items() if "camera" in k
        }
        for key in ("resolution", "parameterization", "picture", "eta", "guidance_scale", "steps"):
            assert again.get(key) == own.get(key), key


def test_the_users_word_on_cameras_ends_the_released_drift(arch, tmp_path):
    told = import_weights([str(CHECKPOINT)], tmp_path, arch | {"camera_encoding": "mvdream"})
    assert told.camera_encoding == "mvdream" and not told.has("sampling_camera_encoding")
    told = import_weights([str(CHECKPOINT)], tmp_path, arch | {"camera_encoding": "isotropic3d"})
    assert told.sampling_camera_encoding == "isotropic3d_sampling"


def test_facts_that_are_damaged_are_refused(tmp_path):
    values = [("x", (2,), np.dtype(np.float32), lambda: np.ones(2, np.float32))]
    write_torch(tmp_path / "x.ckpt", values, {"eta": 0.25})
    assert read_facts(tmp_path / "x.ckpt") == {"eta": 0.25}
    raw = (tmp_path / "x.ckpt").read_bytes()
    (tmp_path / "bad.ckpt").write_bytes(raw.replace(b'"eta": 0.25', b'"eta": 0,25'))
    with pytest.raises(UserError, match="model.json is damaged"):
        read_facts(tmp_path / "bad.ckpt")
    assert open_tensors(tmp_path / "x.ckpt").keys() == {"x"}
    assert read_facts(CHECKPOINT) == {}


def test_leftovers_of_the_original_are_copied_over(converted, golden_tensors, tmp_path):
    text = {"cond_stage_model.model.logit_scale": np.array(4.6, np.float32)}
    original = write(tmp_path / "original.ckpt", text)
    export_torch(converted[1], tmp_path / "back.pt", "bfloat16", original)
    back = open_tensors(tmp_path / "back.pt")
    assert back.keys() - golden_tensors.keys() == text.keys()
    assert back[next(iter(text))].read() == text[next(iter(text))]
    weight = back["model.diffusion_model.out.2.weight"]
    assert weight.dtype == ml_dtypes.bfloat16


def test_diffusers_round_trip_is_bit_exact_but_for_the_cameras(converted, tmp_path):
    config, folder = converted
    notes = export_diffusers(folder, tmp_path / "pipeline")
    assert len(notes) == 1 and "camera" in notes[0]
    again = import_weights([str(tmp_path / "pipeline")], tmp_path / "again", {})
    assert (again.unet, again.vae, again.clip) == (config.unet, config.vae, config.clip)
    assert not again.has("camera_encoding")  # it has not learned any: what it says is nothing
    assert again.resolution == 64
    ours = open_tensors(folder / "model.safetensors")
    theirs = open_tensors(tmp_path / "again" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        if "camera_embed" not in key:
            np.testing.assert_array_equal(tensor.read(), ours[key].read(), err_msg=key)
    silent = theirs["unet/camera_embed/linear_out/kernel"].read()
    assert not silent.any() and theirs["unet/camera_embed/linear_in/kernel"].read().any()
    shutil.rmtree(tmp_path / "pipeline" / "image_encoder")
    import_weights([str(tmp_path / "pipeline")], tmp_path / "without", {})
    with pytest.raises(UserError, match="has no weights for 'clip'"):
        load_model(tmp_path / "without")


def test_a_folder_of_a_tower_that_transformers_does_not_know_is_refused(tmp_path):
    """The shipped model's own; beside a UNet or an autoencoder a note says that it was left out."""
    save_bundle(tmp_path, load_config(None), load_weights(None, ("clip",)))
    with pytest.raises(UserError, match="no CLIP vision tower, so nothing to write"):
        export_diffusers(tmp_path, tmp_path / "pipeline")
    assert not (tmp_path / "pipeline").exists()


def transformers_keys(tower):
    """open_clip's arrays under the keys of CLIPVisionModelWithProjection, written out by hand."""
    out = {
        "vision_model.embeddings.class_embedding": tower["class_embedding"],
        "vision_model.embeddings.position_embedding.weight": tower["positional_embedding"],
        "vision_model.embeddings.position_ids": np.arange(257)[None],
        "vision_model.embeddings.patch_embedding.weight": tower["conv1.weight"],
        "visual_projection.weight": np.ascontiguousarray(tower["proj"].T),
        "logit_scale": np.array(1.0, np.float32),
    }
    for leaf in ("weight", "bias"):
        out[f"vision_model.pre_layrnorm.{leaf}"] = tower[f"ln_pre.{leaf}"]
        out[f"vision_model.post_layernorm.{leaf}"] = tower[f"ln_post.{leaf}"]
        for i in range(2):
            theirs, ours = f"vision_model.encoder.layers.{i}.", f"transformer.resblocks.{i}."
            for number, part in enumerate("qkv"):
                packed = tower[f"{ours}attn.in_proj_{leaf}"]
                out[f"{theirs}self_attn.{part}_proj.{leaf}"] = packed[
                    64 * number : 64 * number + 64
                ]
            for a, b in (("self_attn.out_proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"),
                         ("mlp.fc2", "mlp.c_proj"), ("layer_norm1", "ln_1"),
                         ("layer_norm2", "ln_2")):  # fmt: skip
                out[f"{theirs}{a}.{leaf}"] = tower[f"{ours}{b}.{leaf}"]
    return out


def test_vision_towers_of_three_layouts_are_the_same(converted, tower, tmp_path):
    folder = tmp_path / "transformers"
    folder.mkdir()
    write(folder / "model.safetensors", transformers_keys(tower))
    settings = {"architectures": ["CLIPVisionModelWithProjection"], "num_attention_heads": 2,
                "hidden_act": "gelu"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    open_clip = {"visual." + key: value for key, value in tower.items()}
    open_clip["transformer.resblocks.0.ln_1.weight"] = np.ones(3, np.float32)
    file = write(tmp_path / "open_clip.pt", open_clip)
    expected = open_tensors(converted[1] / "model.safetensors")
    expected = {key: t.read() for key, t in expected.items() if key.startswith("clip/")}
    for place, arch in ((folder, {}), (file, {"clip": {"heads": 2}})):
        import_weights([str(place)], tmp_path / "out", arch)
        tensors = open_tensors(tmp_path / "out" / "model.safetensors")
        assert tensors.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(tensors[key].read(), value, err_msg=key)
    with pytest.raises(UserError, match="a second clip"):
        import_weights([str(folder), str(folder)], tmp_path / "out")
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_act": "quick_gelu"}))
    with pytest.raises(UserError, match="quick_gelu"):
        import_weights([str(folder)], tmp_path / "out")


def test_bfloat16_keeps_the_cameras_float32(tmp_path, arch, converted):
    import_weights([str(CHECKPOINT)], tmp_path, arch, "bfloat16")
    tensors = open_tensors(tmp_path / "model.safetensors")
    ours = open_tensors(converted[1] / "model.safetensors")
    for key, tensor in tensors.items():
        kind = np.float32 if "camera_embed" in key else ml_dtypes.bfloat16
        assert tensor.dtype == kind, key
        np.testing.assert_array_equal(tensor.read(), ours[key].read().astype(kind), err_msg=key)


def test_progress_reaches_the_end(tower, tmp_path):
    file, seen = write(tmp_path / "x.pt", {"visual." + k: v for k, v in tower.items()}), []
    import_weights([file], tmp_path, {"clip": {"heads": 2}}, progress=lambda *a: seen.append(a))
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] > 100_000
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("ln_post.bias"), r"1 weights are missing: ln_post\.bias"),
        (lambda t: t.update(strange=np.zeros(2)), "1 keys are unknown: strange"),
        (lambda t: t.update({"ln_pre.bias": np.zeros(7)}), r"ln_pre\.bias \[7\] for \[64\]"),
        (lambda t: t.pop("proj"), "cannot be recognised"),
        (lambda t: t.update(positional_embedding=np.zeros((9, 64))), "9 positions"),
    ],
)  # fmt: skip
def test_strict_both_ways(tower, tmp_path, change, words):
    values = dict(tower)
    change(values)
    file = write(tmp_path / "x.safetensors", {"visual." + k: v for k, v in values.items()})
    with pytest.raises(UserError, match=words):
        import_weights([file], tmp_path / "out", {"clip": {"heads": 2}})
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_all_problems_are_listed():
    table = (Rule(r"a/(\d)/*", r"x.\1.*"), Rule("b/*", "y.*"))
    shapes = {"a/0/kernel": (2, 3), "a/1/kernel": (2, 3), "b/bias": (4,)}
    source = {"x.0.weight": (3, 2), "y.bias": (5,), "left.over": (1,), "z": (1,)}
    with pytest.raises(UserError) as error:
        plan(table, shapes, source, (r"left\.",), "this")
    assert str(error.value) == (
        "this does not fit: 1 weights are missing: x.1.weight; 1 keys are unknown: z; "
        "1 shapes do not fit: y.bias [5] for [4]"
    )


@pytest.mark.parametrize(
    "arch, words",
    [
        ({}, 'say "num_head_channels" in the section "unet"'),
        ({"unet": {"num_head_channels": 24}}, "does not divide into heads of 24"),
        ({"unet": {"num_head_channels": 32, "model_channels": 64}}, "the weights' shapes say 32"),
        ({"unet": {"num_head_channels": 32, "camera_dim": 12}}, "camera_dim is 12"),
        ({"unet": {"num_head_channels": 32, "depth": 2}}, "unknown entries: depth"),
        ({"net": {}}, "unknown entries: net"),
        ({"camera_encoding": "other"}, "camera_encoding is one of"),
    ],
)
def test_architecture_that_cannot_be_is_refused(tmp_path, arch, words):
    with pytest.raises(UserError, match=words):
        import_weights([str(CHECKPOINT)], tmp_path, arch)


def test_other_files_are_refused(tmp_path, golden_tensors):
    file = write(tmp_path / "x.safetensors", {"hello": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="no layout that is known here"):
        import_weights([file], tmp_path)
    schedule = {"betas": np.zeros(1000, np.float32)}
    vae = {k: t.read() for k, t in golden_tensors.items() if k.startswith("first_stage_model.")}
    file = write(tmp_path / "y.safetensors", vae | schedule)
    with pytest.raises(UserError, match="another noise schedule"):
        import_weights([file], tmp_path)


def test_models_of_our_own_kind_are_not_forced_into_other_layouts(model_folder, tmp_path):
    with pytest.raises(UserError, match="32 groups in every GroupNorm"):
        export_torch(model_folder, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="must end in .ckpt"):
        export_torch(model_folder, tmp_path / "x")
