"""What a model says of itself: read once, frozen, and written back as it was."""

import dataclasses
import json
from pathlib import Path

import pytest

from iso3d_jax.commands.config_files import load_config as load_preset
from iso3d_jax.core.errors import UserError
from iso3d_jax.models.clip import CLIPConfig
from iso3d_jax.models.unet import UNetConfig
from iso3d_jax.models.vae import VAEConfig
from iso3d_jax.tiny.spatial_prior import SpatialUNetConfig
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks import base
from iso3d_jax.weights import bundle
from iso3d_jax.weights.folders import TINY
from iso3d_jax.weights.importing import import_weights
from iso3d_jax.weights.model_spec import ModelSpec

GOLDEN = Path(__file__).parents[1] / "golden"


def save_again(folder, out):
    """A folder's model.json after it was read and written."""
    bundle.save_bundle(out, bundle.load_config(folder), {})
    return (out / "model.json").read_text()


def trained(preset):
    """What a run of a preset writes into its model's folder."""
    config = load_preset(preset)
    config.init_from = ""
    spec, _ = base.settle(make_spec(StageSpec, config))
    return dataclasses.replace(bundle.make_config(spec.model), base_parameterization="eps")


def test_the_shipped_model_is_written_as_it_is(tmp_path):
    assert save_again(TINY, tmp_path) == (TINY / "model.json").read_text()


def test_a_converted_model_is_written_as_it_is(tmp_path):
    arch = json.loads((GOLDEN / "config.json").read_text())
    import_weights([str(GOLDEN / "isotropic3d_tiny_fp16.ckpt")], tmp_path / "one", arch)
    written = (tmp_path / "one/model.json").read_text()
    assert save_again(tmp_path / "one", tmp_path / "two") == written
    said = json.loads(written)
    assert list(said) == sorted(said) and said["sampling_camera_encoding"]
    # All numbers of a converted network are said, whether or not they are the released ones.
    assert list(said["unet"]) == sorted(field.name for field in dataclasses.fields(UNetConfig))


@pytest.mark.parametrize("preset", ["stage1:full", "stage1:tiny", "stage2:tiny,ablation=ccr"])
def test_a_trained_model_is_written_as_it_is(tmp_path, preset):
    spec = trained(preset)
    bundle.save_bundle(tmp_path / "one", spec, {})
    written = (tmp_path / "one/model.json").read_text()
    assert save_again(tmp_path / "one", tmp_path / "two") == written
    # The config's entries, without what it left to a base that says nothing, and what follows.
    config = {k: v for k, v in load_preset(preset).model.to_dict().items() if v is not None}
    found = json.loads(written)
    sizes = {"latent_size", "latent_channels", "context_dim"}
    assert found.keys() - config.keys() == sizes | {"base_parameterization"}
    assert config.keys() <= found.keys()
    for section in ("unet", "vae", "clip"):
        assert found[section] == json.loads(json.dumps(config[section]))


def test_what_this_version_does_not_know_stays(tmp_path):
    told = json.loads((TINY / "model.json").read_text())
    told |= {"lens": {"b": [1, {"c": None}], "a": 0.1}, "zoom": None, "steps": None}
    (tmp_path / "one").mkdir()
    (tmp_path / "one/model.json").write_text(json.dumps(told))
    again = json.loads(save_again(tmp_path / "one", tmp_path / "two"))
    assert again == told
    spec = bundle.load_config(tmp_path / "one")
    assert spec.steps is None and hash(spec) == hash(bundle.load_config(tmp_path / "two"))


def test_a_value_that_is_what_it_would_be_anyway_is_written_where_it_was_said():
    for numbers in ({}, {"num_groups": 32}, {"num_groups": 16}, {"layout_size": 0}):
        spec = ModelSpec.read({"unet": numbers, "eta": 0.0, "picture": ""})
        assert spec.to_dict() == {"eta": 0.0, "picture": "", "unet": numbers}
    assert isinstance(spec.unet, SpatialUNetConfig)
    spec = dataclasses.replace(spec, unet=UNetConfig(num_groups=16), picture="launch", steps=3)
    assert spec.to_dict() == {
        "eta": 0.0, "picture": "launch", "steps": 3, "unet": {"num_groups": 16}
    }  # fmt: skip
    assert ModelSpec().to_dict() == {} and ModelSpec(unet=UNetConfig()).to_dict() == {"unet": {}}


def test_what_another_knows_is_taken_with_how_it_was_said():
    other = ModelSpec.read({"vae": {"ch": 128}, "eta": 0.0, "scale_factor": None})
    mine = ModelSpec.read({"vae": {"ch": 64, "patch": 1}, "scale_factor": 2, "eta": None})
    taken = mine.take(other, "vae", "eta", "scale_factor", "clip")
    assert taken.to_dict() == {"eta": 0.0, "scale_factor": 2, "vae": {"ch": 128}}
    assert taken.vae == VAEConfig() and taken.clip is None
    assert mine.without("eta").to_dict() == {"scale_factor": 2, "vae": {"ch": 64, "patch": 1}}


def test_nothing_of_a_spec_can_be_changed():
    spec = bundle.load_config(None)
    for target, name in ((spec, "steps"), (spec.unet, "num_groups")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, name, 1)


def test_numbers_that_are_no_sizes_and_networks_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="section 'clip': its 'layers' is 1000, which is no size"):
        ModelSpec(clip=CLIPConfig(layers=1000))
    with pytest.raises(UserError, match="section 'vae' has unknown entries: depth"):
        ModelSpec.read({"vae": {"depth": 3}})
    for name in ("vae", "lens", "steps"):
        with pytest.raises(UserError, match=f"the model's config has no section '{name}'"):
            ModelSpec(steps=3).network(name)


def test_weights_without_the_facts_that_they_need_are_refused(tmp_path):
    told = json.loads((TINY / "model.json").read_text())
    (tmp_path / "model.safetensors").symlink_to(TINY / "model.safetensors")
    for network, fact in (("vae", "scale_factor"), ("unet", "parameterization")):
        rest = {key: value for key, value in told.items() if key != fact}
        (tmp_path / "model.json").write_text(json.dumps(rest))
        with pytest.raises(UserError, match=f"model.json is damaged: it has no '{fact}'"):
            bundle.load_model(tmp_path, networks=(network,))
