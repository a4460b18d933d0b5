"""The page of a run's folder, and what the demo does with an earlier result."""

import html
import json
import os
import re

import numpy as np
import pytest
import trimesh
from PIL import Image

from iso3d_jax import demo
from iso3d_jax.core.errors import UserError
from iso3d_jax.pages.html import uri
from iso3d_jax.pages.run_page import write_run_page

REPORT = dict(
    mode="sds", seed=22, iterations=500, device="cpu cpu",
    seconds=dict(views=3.2, draft=0.1, optimisation=130.0, mesh=20.0, of_optimisation={"x": 1}),
    mesh=dict(faces=12345, threshold=9.5, silhouette_iou=0.987, psnr_db=24.37, mask_iou=0.9881,
              as_optimised=dict(psnr_db=22.51, mask_iou=0.9732)),
    versions=dict(python="3.11.7", iso3d_jax="0.1.0", jax="0.10.2"),
)  # fmt: skip


@pytest.fixture
def run_folder(tmp_path):
    """A folder with the files of a finished reconstruction."""
    Image.new("RGBA", (20, 20), (200, 0, 0, 255)).save(tmp_path / "input.png")
    views, prepared = np.zeros((2, 4, 8, 8, 3), np.float32), np.ones((8, 8, 3), np.float32)
    np.savez(tmp_path / "views.npz", views=views, prepared=prepared)
    (tmp_path / "turntable.mp4").write_bytes(b"video")
    (tmp_path / "mesh.glb").write_bytes(b"mesh")
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    return tmp_path


def test_page_of_a_run(run_folder):
    path = write_run_page(run_folder, picture_name="x.png", model_name="tiny", resolution=64)
    text = re.sub("<script>.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.S)
    for word in ("x.png", "tiny, 64×64 pixels", "2 min 33 s", "· optimisation", "12,345 triangles",
                 "0.987", "24.4 dB, mask IoU 0.988",
                 "22.5 dB, mask IoU 0.973", "jax 0.10.2", "270°",
                 "expect coarse shapes"):  # fmt: skip
        assert word in text, word
    assert "· draft" not in text and "of_optimisation" not in text
    assert "More pictures" not in text
    other = ("chair", np.full((20, 20, 4), 255, np.uint8), np.zeros((4, 8, 8, 3), np.float32))
    text = write_run_page(run_folder, others=[other, other]).read_text(encoding="utf-8")
    assert "More pictures" in text and text.count('alt="chair"') == 2 * 5
    large = write_run_page(run_folder, resolution=256).read_text(encoding="utf-8")
    assert "expect coarse shapes" not in large


def test_a_turntable_without_ffmpeg_is_a_picture_that_moves(run_folder):
    (run_folder / "turntable.mp4").rename(run_folder / "turntable.webp")
    (run_folder / "report.json").write_text(json.dumps(REPORT | {"turntable": "turntable.webp"}))
    text = write_run_page(run_folder).read_text(encoding="utf-8")
    assert text.count(str(uri(run_folder / "turntable.webp"))) == 2  # shown, and to download
    assert "<video" not in text and "turntable-tabs" not in text
    assert 'alt="Turntable: colour, normals, opacity"' in text


@pytest.mark.parametrize("name", ["{{body}}.png", "{% x %}.png", "%s {0}.png", "<b>&.png"])
def test_a_pictures_name_is_no_template(run_folder, name):
    text = write_run_page(run_folder, picture_name=name).read_text(encoding="utf-8")
    assert f"Made from {html.escape(name)} by iso3d_jax" in text


def test_a_name_in_bytes_that_are_no_utf8_can_be_shown(run_folder):
    name = os.fsdecode(b"st\xfchl.png")
    text = write_run_page(run_folder, picture_name=name).read_text(encoding="utf-8")
    assert "Made from st\ufffdhl.png by" in text


def test_the_page_shows_what_the_model_sees(run_folder):
    text = write_run_page(run_folder).read_text(encoding="utf-8")
    assert 'alt="What the model sees"' in text
    assert str(uri(np.ones((8, 8, 3), np.float32))) in text


def test_the_page_says_what_became_of_the_background(run_folder):
    assert "What you gave, all of it." in write_run_page(run_folder).read_text(encoding="utf-8")
    Image.new("RGBA", (20, 20), (200, 0, 0, 90)).save(run_folder / "input.png")
    text = write_run_page(run_folder).read_text(encoding="utf-8")
    assert "What you gave, its background removed." in text and "all of it" not in text


def test_a_picture_that_is_damaged_or_gone_is_one_sentence(run_folder):
    file = run_folder / "input.png"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError, match="input.png is damaged or cut short"):
        write_run_page(run_folder)
    file.unlink()
    with pytest.raises(UserError, match="picture not found: .*input.png"):
        write_run_page(run_folder)


def test_unfinished_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished reconstruction"):
        write_run_page(tmp_path)


def test_an_earlier_result_is_replaced_and_other_files_are_not_touched(run_folder, tmp_path):
    (run_folder / "previews").mkdir()
    (run_folder / "mine.txt").touch()
    demo.clear(run_folder)
    assert [path.name for path in run_folder.iterdir()] == ["mine.txt"]
    with pytest.raises(UserError, match="holds other files"):
        demo.clear(run_folder)


def test_a_folder_of_pictures_is_no_earlier_result(tmp_path):
    (tmp_path / "views").mkdir()
    with pytest.raises(UserError, match="holds other files .views"):
        demo.clear(tmp_path)
    (tmp_path / "transforms.json").write_text("{}")  # drawn, and stopped before anything was saved
    demo.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["views"]


def test_the_example_is_there():
    assert demo.EXAMPLE.is_file()


def test_the_object_from_true_views_ships_and_is_small():
    """What the demo's page shows beside its own: readable, labelled, a few hundred KB."""
    example = demo.load_true_views()
    assert sum(file.stat().st_size for file in demo.TRUE_VIEWS.iterdir()) < 500_000
    assert len(example.views) == 8 and all(view.shape == (128, 128, 3) for view in example.views)
    mesh = trimesh.load(example.mesh, force="mesh")
    assert 1_000 < len(mesh.faces) <= 10_000
    # the mixer's mustard paint and its grey bowl, not a blank
    image = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")).astype(int)
    assert (image[..., 0] - image[..., 2] > 60).mean() > 0.2
    assert "24 pictures" in example.text and "no model drew" in example.text
    assert "seven minutes" in (demo.TRUE_VIEWS / "README.md").read_text()
