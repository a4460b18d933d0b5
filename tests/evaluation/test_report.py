"""Tables and the page: every figure and picture is there, best and worst are the right ones."""

import numpy as np
import pytest

from iso3d_jax.evaluation import report, scores
from iso3d_jax.pages import evaluation_page
from tests.pages.accessibility import problems
from tests.pages.embedded import without_files


@pytest.fixture
def made():
    azimuth = np.tile([0.0, 90.0, 180.0, 270.0], (5, 1))
    quality = np.repeat(np.array([12.0, 18.0, 15.0, 10.0, 20.0])[:, None], 4, 1)
    each = {"psnr": quality, "ssim": quality / 20, "lpips": 1 - quality / 20}
    answers = {"tiny model": each, "mean training picture": {k: v * 0.5 for k, v in each.items()}}
    return {
        "title": "Evaluation of <tiny>",
        "protocol": "a test",
        "data": {"data set": "samples", "objects": 5, "views": 4},
        "settings": {"steps": 2, "seed": 0, "consistency_objects": 0},
        "code": {"commit": "abc"},
        "views": {n: scores.summary(s, azimuth) for n, s in answers.items()},
        "ablation": {"right": {"t0980": 8.1}, "cameras_turned_90": {"t0980": 7.9}},
        "rank_by": "psnr",
        "objects": [
            {"name": f"object{i}", "nearest": "other", "scores": {"psnr": float(q[0])}}
            for i, q in enumerate(quality)
        ],
    }


def test_markdown_has_the_figures(made):
    text = report.markdown(made)
    assert "| tiny model | 15.00 | 0.750 | 0.250 |" in text
    assert "| tiny model | PSNR (dB) | 15.00 | 15.00 | 1.000 | 0.00 | 0.00 |" in text
    assert "| tiny model | 1 - LPIPS | 0.750 | 0.750 |" in text
    assert "| cameras turned 90 | 7.90 |" in text and "data set samples" in text


def test_best_and_worst(made):
    assert evaluation_page.rank_objects(made["objects"], "psnr", 4) == ([4, 1], [3, 0])
    assert evaluation_page.rank_objects(made["objects"], "psnr", 99) == ([4, 1, 2], [3, 0])
    assert evaluation_page.rank_objects(made["objects"], "psnr", 1) == ([4], [])


def test_page_is_one_file_with_pictures(made, tmp_path):
    pictures = np.random.default_rng(0).random((5, 8, 8, 3))
    views = np.random.default_rng(1).random((5, 4, 8, 8, 3))
    path = evaluation_page.write_page(
        tmp_path / "index.html", made, pictures, {"tiny model": views, "truth": views}, limit=2
    )
    text = path.read_text()
    assert (
        text.count("<img ") == 2 * 9
        and "http" not in without_files(text)
        and "Evaluation of &lt;tiny&gt;" in text
    )
    assert text.index("object4") < text.index("object3") and "object1" not in text
    assert text.count("<svg") == 2 and "15.00" in text
    assert problems(text) == []


def test_shapes_have_a_table():
    row = dict.fromkeys(scores.SHAPE_METRICS, 0.25) | {"closed_volume_iou": None}
    made = {"title": "t", "data": {"objects": 1}, "code": {}, "shapes": {"reconstruction": row}}
    want = "| reconstruction | 0.2500 | 0.2500 | 0.2500 | – | 0.2500 | 0.2500 |"
    assert want in report.markdown(made)
