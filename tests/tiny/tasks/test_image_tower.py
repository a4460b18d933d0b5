"""Training of the image tower by the loop that the command runs."""

import json

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.presets import image_tower as preset
from iso3d_jax.presets import stage1
from iso3d_jax.tiny.spatial_prior import DRAWING
from iso3d_jax.tiny.tasks.image_tower import ImageTowerSpec
from iso3d_jax.training.loop import fit
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks.registry import make_task
from iso3d_jax.training.tasks.stages import DenoiserTask
from iso3d_jax.weights import bundle


def starting_from(init_from="", drawing=""):
    cfg = stage1.get_config("tiny")
    cfg.init_from, cfg.init.drawing = init_from, drawing
    return make_spec(StageSpec, cfg)


def test_the_tower_trains_previews_exports_and_gives_the_unet_its_drawing(tmp_path):
    cfg = preset.get_config("tiny")
    cfg.model.clip.update(image_size=16, hidden=16)
    cfg.update(steps=15, batch_size=8, drawn_views=4, log_every=1, sample_every=15, warmup_steps=1)
    fit(make_task(cfg), tmp_path)

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["drawing"] < lines[0]["drawing"]
    assert list((tmp_path / "samples").iterdir())
    assert "direct/kernel" in bundle.load_weights(tmp_path, ("clip",))["clip"]

    # The decoder becomes the UNet's layout, whether the UNet is new or has been trained.
    drawing = bundle.load_weights(tmp_path, (DRAWING,))[DRAWING]
    task = object.__new__(DenoiserTask)  # without the data
    task.cfg = starting_from(drawing=str(tmp_path))
    task.config = bundle.make_config(task.cfg.model)
    new = task._load_init()
    bundle.save_bundle(tmp_path / "base", task.config, {"unet": new}, dtype=None)
    new["layout/drawing/draw/bias"] = new["layout/drawing/draw/bias"] + 1.0
    bundle.save_bundle(tmp_path / "trained", task.config, {"unet": new}, dtype=None)
    trained = str(tmp_path / "trained")
    task.cfg = starting_from(trained, str(tmp_path))
    for params in (bundle.load_weights(tmp_path / "base", ("unet",))["unet"], task._load_init()):
        for path, value in drawing.items():
            np.testing.assert_array_equal(params[f"layout/drawing/{path}"], value)

    # A whole model's drawing will do, too; a folder without one will not.
    task.cfg = starting_from(trained, trained)
    np.testing.assert_array_equal(
        task._load_init()["layout/drawing/draw/bias"], drawing["draw/bias"] + 1.0
    )
    tower = bundle.load_weights(tmp_path, ("clip",))
    config = make_spec(ImageTowerSpec, cfg).model
    bundle.save_bundle(tmp_path / "bare", bundle.make_config(config), tower)
    task.cfg = starting_from(trained, str(tmp_path / "bare"))
    with pytest.raises(UserError, match="no drawing decoder that fits"):
        task._load_init()

    # Another training goes on from tower and decoder.
    cfg.init_from = str(tmp_path)
    found = make_task(cfg).init_params
    for part, weights in (("tower/", tower["clip"]), ("decoder/", drawing)):
        for path, value in weights.items():
            np.testing.assert_array_equal(found[part + path], value)
    cfg.init_from = str(tmp_path / "bare")
    with pytest.raises(UserError, match="no image tower with a drawing decoder"):
        make_task(cfg)
