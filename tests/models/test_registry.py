"""Which network a section of a config stands for."""

import dataclasses

import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.models import registry
from iso3d_jax.models.clip import CLIPConfig, CLIPVisionTower
from iso3d_jax.models.unet import MultiViewUNet


@dataclasses.dataclass(frozen=True)
class RoundConfig:
    radius: int = 3
    layers: int = 1


@pytest.fixture
def imported(monkeypatch):
    """An extension that registers a round tower; the names that were imported."""
    names = []
    monkeypatch.setattr(registry, "_OTHERS", {section: {} for section in registry.SECTIONS})
    monkeypatch.setattr(registry, "EXTENSIONS", ("round",))

    def load(name):
        names.append(name)
        registry.register("clip", ("radius", "diameter"), lambda config: config, RoundConfig)

    monkeypatch.setattr(registry.importlib, "import_module", load)
    return names


def test_what_the_method_knows_is_its_own_and_imports_nothing(imported):
    for entries in ({}, {"layers": 2, "heads": 4}):
        found = registry.find("clip", entries)
        assert (found.module, found.config) == (CLIPVisionTower, CLIPConfig)
    assert registry.find("unet", ("context_dim",)).module is MultiViewUNet
    assert registry.find("unet", ()).prior is None and imported == []


def test_an_entry_that_it_does_not_know_asks_the_extensions(imported):
    for entries in ({"layers": 2, "radius": 1}, {"diameter": 2}):
        assert registry.find("clip", entries).config is RoundConfig
    assert imported == ["round", "round"]
    assert registry.find("clip", {"radios": 1}).config is CLIPConfig  # who reads it refuses it
    assert registry.find("vae", {"radius": 1}).config is not RoundConfig  # another section's


def test_numbers_tell_their_network(imported):
    assert registry.find_by_numbers("clip", CLIPConfig(layers=2)).module is CLIPVisionTower
    assert imported == []
    assert registry.find_by_numbers("clip", RoundConfig()).config is RoundConfig
    assert imported == ["round"]


def test_no_such_section_names_what_there_is():
    for ask in (
        lambda: registry.find("lens", ()),
        lambda: registry.find_by_numbers("lens", CLIPConfig()),
        lambda: registry.register("lens", (), *[int] * 2),
    ):
        with pytest.raises(UserError, match="no network 'lens': known are unet, vae, clip"):
            ask()


def test_the_small_models_networks_are_found_by_their_entries():
    names = {
        "unet": ("shortcut", "SpatialUNetConfig"), "vae": ("components", "PatchAutoencoderConfig"),
        "clip": ("hidden", "DenseTowerConfig"),
    }  # fmt: skip
    for section, (entry, kind) in names.items():
        assert registry.find(section, {entry: 1}).config.__name__ == kind
    prior = registry.find("unet", {"layout_size": 8}).prior
    assert prior is not None and "draw/bias" in prior.load(None)
    assert prior.prefix == "layout/drawing/"
