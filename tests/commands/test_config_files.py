"""Which config a spec means: a file anywhere, or a preset of the package by its name."""

import re
import shutil
from pathlib import Path

import pytest

from iso3d_jax import presets
from iso3d_jax.commands import config_files
from iso3d_jax.core.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_each_preset_has_a_file_to_type_and_they_are_one():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(presets.NAMES)
    for name in presets.NAMES:
        typed = config_files.find_config(f"{CONFIGS}/{name}.py")
        assert typed.get_config is config_files.find_config(name).get_config


@pytest.mark.parametrize("spec", ["stage2:tiny", "stage2.py:tiny", "configs/stage2.py:tiny"])
def test_presets_are_found_from_any_folder(spec, tmp_path, monkeypatch):
    wanted = config_files.load_config(f"{CONFIGS}/stage2.py:tiny")
    monkeypatch.chdir(tmp_path)
    assert config_files.load_config(spec).to_dict() == wanted.to_dict()
    assert config_files.load_config(spec + "\r").to_dict() == wanted.to_dict()


def test_a_file_comes_before_the_preset_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stage2.py").write_text(
        "from iso3d_jax.presets import stage2\n\n"
        "def get_config(arg=None):\n    cfg = stage2.get_config(arg)\n"
        "    cfg.steps = 7\n    return cfg\n"
    )
    assert config_files.load_config("stage2.py:tiny").steps == 7
    assert config_files.load_config("stage2:tiny").steps == 150
    assert config_files.load_config("configs/stage2.py:tiny").steps == 150


@pytest.mark.parametrize("name", presets.NAMES)
def test_a_copy_with_windows_line_ends_works_anywhere(name, tmp_path):
    copy = tmp_path / "my configs" / f"{name}.py"
    copy.parent.mkdir()
    copy.write_bytes((CONFIGS / f"{name}.py").read_bytes().replace(b"\n", b"\r\n"))
    wanted = config_files.load_config(name).to_dict()
    assert config_files.load_config(str(copy)).to_dict() == wanted


def test_home_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(CONFIGS / "stage1.py", tmp_path / "mine.py")
    assert config_files.load_config("~/mine.py:tiny").batch_size == 16


def test_a_config_without_a_preset_has_the_one_that_suits_the_command(tmp_path):
    default = "reconstruct:tiny"
    copy = shutil.copy(CONFIGS / "reconstruct.py", tmp_path / "copy.py")
    own = tmp_path / "own.py"
    own.write_text(
        "from iso3d_jax.presets import reconstruct\n\n"
        "def get_config(arg=''):\n    return reconstruct.get_config(arg)\n"
    )
    for spec in ("reconstruct", f"{CONFIGS}/reconstruct.py", "configs/reconstruct.py", str(copy)):
        assert config_files.load_config(spec, default).preset == "tiny"
        assert config_files.load_config(f"{spec}:steps=50", default).steps == 50
        assert config_files.load_config(f"{spec}:steps=50", default).preset == "tiny"
        assert config_files.load_config(f"{spec}:fast", default).preset == "fast"
        assert config_files.load_config(spec).preset == "isotropic3d"
    assert config_files.load_config(str(own), default).preset == "isotropic3d"


@pytest.mark.parametrize(
    "spec, hint",
    [
        ("stge2", "did you mean 'stage2'?"),
        ("stge2.py:tiny", "did you mean 'stage2'?"),
        ("configs/stge2.py", "did you mean 'stage2(.py)?'"),
        ("{folder}/min.py", "did you mean 'mine.py'?"),
        ("{folder}/none/stage1.py", "did you mean 'stage1'?"),
    ],
)
def test_hints_name_configs_and_never_a_stray_file(spec, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stray in ("stge2_notes.py", "stge.py"):
        (tmp_path / stray).write_text("print('get it')\n")
    (tmp_path / "mine.py").write_text("def get_config():\n    pass\n")
    with pytest.raises(UserError) as refused:
        config_files.load_config(spec.format(folder=tmp_path))
    assert re.search(hint.replace("?'", "?'").rstrip("?"), str(refused.value)), str(refused.value)
    assert "stge2_notes" not in str(refused.value) and "'stge.py'" not in str(refused.value)
