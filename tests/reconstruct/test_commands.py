"""What the commands refuse, each in one sentence."""

import json

import pytest

from iso3d_jax.errors import UserError
from iso3d_jax.reconstruct import default_config
from iso3d_jax.reconstruction import run, settings, state


def about(cfg, **changes):
    entry = {"picture": "p", "model": "m", "init": "none", "config": cfg.to_dict()}
    return entry | changes


@pytest.mark.parametrize(("key", "name"), [("picture", "picture"), ("model", "model")])
def test_a_folder_of_another_run_is_refused(small_config, tmp_path, key, name):
    assert not run._check_same_run(tmp_path, about(small_config), small_config)
    state.save(tmp_path, state.start(small_config), about(small_config))
    assert run._check_same_run(tmp_path, about(small_config), small_config)
    with pytest.raises(UserError, match=f"another {name}.*--out"):
        run._check_same_run(tmp_path, about(small_config, **{key: "other"}), small_config)


def test_a_folder_of_another_config_is_refused(small_config, tmp_path):
    state.save(tmp_path, state.start(small_config), about(small_config))
    free = small_config.copy_and_resolve_references()
    free.preview_every, free.mesh.faces = 7, 99
    assert run._check_same_run(tmp_path, about(free), free)
    other = small_config.copy_and_resolve_references()
    other.guidance.scale = 1.5
    with pytest.raises(UserError, match=r"config\.guidance differ"):
        run._check_same_run(tmp_path, about(other), other)
    assert "mesh" not in settings.comparable(small_config)


def test_preset_follows_the_model(tmp_path):
    assert default_config(["x"]).endswith("reconstruct.py:tiny")
    for resolution, preset in ((64, "tiny"), (256, "isotropic3d")):
        folder = tmp_path / str(resolution) / "model"
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps({"resolution": resolution}))
        for given in ([f"--model={folder.parent}"], ["--model", str(folder)]):
            assert default_config(["x", *given]).endswith(f":{preset}")


def test_export_writes_all_formats_and_refuses(small_config, tmp_path, refused, run_python):
    state.save(tmp_path, state.start(small_config), about(small_config))
    for suffix in ("obj", "ply"):
        process = run_python("-m", "iso3d_jax.export", "--run", tmp_path, "--format", suffix,
                             "--threshold", "2")  # fmt: skip
        assert process.returncode == 0, process.stderr
        assert (tmp_path / f"mesh.{suffix}").stat().st_size > 1000
    command = ["-m", "iso3d_jax.export"]
    assert "surface is empty" in refused(*command, "--run", tmp_path, "--threshold", "1e9")
    assert "holds no reconstruction" in refused(*command, "--run", tmp_path / "nowhere")
    assert "auto or a number" in refused(*command, "--run", tmp_path, "--threshold", "thick")
    assert "does not end in .ply" in refused(
        *command, "--run", tmp_path, "--format", "ply", "--out", tmp_path / "m.stl"
    )


def test_reconstruct_refuses_bad_pictures_and_runs(tmp_path, refused):
    command = ["-m", "iso3d_jax.reconstruct", "--out", tmp_path / "out"]
    assert "missing.png" in refused(*command, "--image", tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("not a picture")
    assert "text.png" in refused(*command, "--image", tmp_path / "text.png")
    assert "unknown preset" in refused(
        *command, "--image", "x.png", "--config", "configs/reconstruct.py:tinny"
    )
