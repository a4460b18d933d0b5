"""A pipeline behind the page: what it tells, and an object that was cancelled and goes on."""

import types

import jax
import numpy as np
import pytest

from iso3d_jax.core.progress import listening
from iso3d_jax.pipeline import Pipeline
from iso3d_jax.presets import reconstruct as presets
from iso3d_jax.reconstruction import loop
from iso3d_jax.ui.makers import PipelineMaker
from iso3d_jax.ui.runs import Drawn
from iso3d_jax.ui.workers import Stopped
from tests import smallest_reconstruction

PICTURE = np.zeros((40, 40, 4), np.uint8)
PICTURE[8:32, 12:28] = (200, 60, 40, 255)


class FakePipeline:
    """Notes what it is asked for, and tells the steps that it was given."""

    def __init__(self, steps):
        config = types.SimpleNamespace(name="m", resolution=64, has=lambda name: False)
        config.latent_shape, config.parameterization = (8, 8, 4), "v"
        self.model, self.steps, self.given = types.SimpleNamespace(config=config), steps, {}

    def reconstruct(self, views, **given):
        self.given = given
        for step in self.steps:
            if given["on_step"](step, 360, None) is False:
                raise loop.Interrupted(2)


@pytest.mark.parametrize(
    "mode, init, steps, told",
    [
        ("full", "views", (0, 10, 300, 350, 360),
         [("draft", 0, 300), ("draft", 10, 300), ("optimisation", 0, 60), ("optimisation", 50, 60),
          ("files", 0, 0)]),
        ("full", "none", (0, 359), [("optimisation", 0, 360), ("optimisation", 359, 360)]),
    ],
)  # fmt: skip
def test_iterations_are_told_by_part(mode, init, steps, told, tmp_path):
    cfg = presets.get_config("tiny")
    cfg.init = init
    pipe, heard = FakePipeline(steps), []
    maker = PipelineMaker(pipe, jax.local_devices()[0], cfg)
    assert maker.guidance_scale == 10.0 and maker.about.startswith("the model 'm' (64x64 pixels)")
    maker.object("views", tmp_path, mode, "chair.png", lambda *step: heard.append(step[:3]))
    assert heard == told and pipe.given["config"].mode == "sds"
    assert pipe.given["out"] == tmp_path and pipe.given["name"] == "chair.png"


def test_a_draft_fits_views_and_what_is_stopped_says_so(tmp_path):
    cfg = presets.get_config("tiny")
    pipe = FakePipeline((0, 10))
    maker = PipelineMaker(pipe, jax.local_devices()[0], cfg)
    with pytest.raises(Stopped):
        maker.object("views", tmp_path, "draft", "", lambda part, *_: part != "draft")
    assert pipe.given["config"].mode == "views" and cfg.mode == "sds"
    assert pipe.given["config"].video.resolution == 64 and cfg.video.resolution == 112


@pytest.fixture(scope="module")
def maker(random_model):
    cfg = smallest_reconstruction.get_config("8")
    cfg.steps_per_call, cfg.preview_every = 2, 4
    return PipelineMaker(Pipeline(random_model), jax.local_devices()[0], cfg)


@pytest.mark.slow
def test_a_cancelled_draft_goes_on_to_the_same_numbers(maker, tmp_path):
    assert maker.guidance_scale == 3.0 and "'random' (64x64 pixels)" in maker.about
    views = maker.views(PICTURE, Drawn(3, 2.0))
    assert len(views) == 4 and views.seed == 3
    told, heard = [], []

    def on_step(part, step, total, preview):
        told.append((part, step, total, preview is not None))
        return step < stop_at

    stop_at = 4
    with pytest.raises(Stopped):
        maker.object(views, tmp_path / "cut", "draft", "a chair", on_step)
    assert told == [("draft", 0, 8, True), ("draft", 2, 8, False), ("draft", 4, 8, True)]
    stop_at = 99
    with listening(heard.append):
        maker.object(views, tmp_path / "cut", "draft", "a chair", on_step)
    assert told[-1] == ("files", 0, 0, True) and ("draft", 6, 8, False) in told
    assert any("mesh.glb" in t.label for t in heard)
    maker.object(views, tmp_path / "whole", "draft", "a chair", on_step)
    states = [np.load(tmp_path / name / "state.npz") for name in ("cut", "whole")]
    arrays = [name for name in states[0].files if states[0][name].dtype.kind == "f"]
    assert arrays
    for name in arrays:
        np.testing.assert_array_equal(states[0][name], states[1][name])

    maker.export(tmp_path / "cut", tmp_path / "a.stl")
    assert (tmp_path / "a.stl").stat().st_size > 84
