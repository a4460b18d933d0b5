"""What takes long says what it is doing; what is over at once says nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from iso3d_jax.core import progress
from iso3d_jax.geometry import camera_sets
from iso3d_jax.mesh import isosurface, texture


class Told(list):
    """A `Report` that remembers."""

    def __call__(self, what, done, total):
        assert 0 <= done <= max(total, 0)
        self.append((what, done, total))

    def kinds(self):
        return list(dict.fromkeys(what.split(" ")[0] for what, _, _ in self))


def ball(x):
    return 20.0 * np.exp(-((np.linalg.norm(x, axis=-1) / 0.5) ** 2))


def test_the_mesh_tells_its_steps_and_is_the_same_in_slabs(monkeypatch):
    whole = isosurface.extract(ball, 5.0, resolution=40, max_faces=900)
    monkeypatch.setattr(isosurface, "SLAB", 1000)
    told = Told()
    surface = isosurface.extract(ball, 5.0, resolution=40, max_faces=900, report=told)
    np.testing.assert_array_equal(surface.vertices, whole.vertices)
    assert told.kinds() == ["density", "marching", "simplifying"]
    coarse = [(done, total) for what, done, total in told if "48 x 48 x 48" in what]
    assert coarse[0] == (0, 48**3) and coarse[-1] == (48**3, 48**3) and len(coarse) > 100

    def colour(x, normal):
        return np.clip(x + 0.5, 0, 1)

    plain = texture.bake(surface, colour, 64)
    monkeypatch.setattr(texture, "SLAB", 500)
    told = Told()
    baked = texture.bake(surface, colour, 64, told)
    np.testing.assert_array_equal(baked.texture, plain.texture)
    np.testing.assert_array_equal(baked.colours, plain.colours)
    assert told.kinds() == ["unwrapping", "baking"]
    assert told[-1][1] == told[-1][2] > len(baked.vertices) and len(told) > 5


def test_loading_much_shows_its_bytes_and_little_nothing(model_folder, monkeypatch, capsys):
    from iso3d_jax.weights import bundle

    bundle.load_model(model_folder, networks=("vae", "clip"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(bundle, "LARGE", 1 << 10)
    bundle.load_model(model_folder, networks=("vae", "clip"))
    err = capsys.readouterr().err
    assert err.startswith(f"loading {model_folder} ...") and "building: vae in float32 ..." in err
    assert "unet" not in err


@pytest.fixture
def slow_first(monkeypatch):
    """A clock, and what makes a function take a minute at its first call and a second later on."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def wrap(function):
        calls = []

        def slow(*args, **kwargs):
            now[0] += 1 if calls else 60
            calls.append(1)
            return function(*args, **kwargs)

        return slow

    return wrap


def test_encoding_does_not_count_compiling_into_the_time_left(slow_first, monkeypatch, capsys):
    from iso3d_jax.data import encode
    from iso3d_jax.data.table import MultiViewTable

    table = MultiViewTable.load("samples", "train")
    answer = np.zeros((5, 24, 8, 8, 16), np.float16), np.zeros((5, 24, 8), np.float16)
    slow = slow_first(lambda *args: answer)
    monkeypatch.setattr(encode.Encoder, "_program", lambda self, arrays: (slow(), slow)[1])
    encoded = encode.encode_table(table, None, None, variants=1, pictures=["framed"])
    assert len(encoded) == 18  # five at a time, and at last three
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "encoding: compiling ..." and lines[1].startswith(
        "encoding: 5/36  5 object/s"
    )
    assert "5 object/s  1 s left" in next(line for line in lines if ": 30/36" in line)


def test_drawing_the_views_of_a_reconstruction_says_so(slow_first, monkeypatch, capsys, tmp_path):
    from ml_collections import ConfigDict

    from iso3d_jax.reconstruction import run
    from iso3d_jax.weights.model_spec import ModelSpec

    views = np.zeros((1, 4, 8, 8, 3), np.float32)
    monkeypatch.setattr(run.sampling, "sample_views", slow_first(lambda *a, **k: views))
    sets = tuple((10.0 * k, 15.0) for k in range(9))
    cfg = ConfigDict(dict(views=4, seed=0, draft=dict(sets=sets, fov_deg=40.0, distance=1.1)))
    model = type("Model", (), {"config": ModelSpec(resolution=8)})
    picture = np.asarray(Image.new("RGBA", (8, 8)))
    drawn = run._sample_views(
        model, picture, np.ones((8, 8, 3), np.float32), tmp_path, cfg, False, None
    )
    assert drawn.shape == (9, 4, 8, 8, 3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "drawing sets of 4 views: compiling and drawing the first ..."
    assert any("1 set/s" in line and " left" in line for line in lines)
    assert lines[-1] == "drawing sets of 4 views: 9/9 in 1 min 08 s"


def test_evaluation_says_what_it_draws(slow_first, monkeypatch, capsys):
    from iso3d_jax.evaluation import views

    monkeypatch.setattr(views, "_generate_one", slow_first(lambda *args: np.zeros(3)))
    monkeypatch.setattr(views.sampling, "settings", lambda *args, **given: {})
    model = SimpleNamespace(config=None)
    assert views.generate(model, range(3)).shape == (3, 3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "generating views: compiling and generating the first ..."
    assert lines[-1] == "generating views: 3/3 in 1 min 02 s"


def test_the_turntable_counts_its_frames(slow_first, monkeypatch, capsys):
    from iso3d_jax.commands import config_files
    from iso3d_jax.nerf import showing
    from iso3d_jax.reconstruction import pictures, state
    from iso3d_jax.reconstruction.spec import make_spec

    spec = make_spec(config_files.load_config("tests/smallest_reconstruction.py"))
    three, one = np.zeros((256, 3), np.float32), np.zeros(256, np.float32)
    answer = three, one, one, three, three, one, one
    monkeypatch.setattr(showing, "rays_at_once", lambda *given: 256)
    monkeypatch.setattr(pictures, "_render_rays", slow_first(lambda *a, **k: answer))
    scene = state.start(spec)
    ring = camera_sets.ring(10, 15.0, 40.0, 1.1)
    assert len(pictures.render_views(scene, ring, 8, spec)[0]) == 10
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(pictures, "_render_rays", slow_first(lambda *a, **k: answer))
    pictures.render_views(scene, ring, 8, spec, "turntable")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "turntable: compiling ..." and lines[-1] == "turntable: 10/10 in 1 min 02 s"
