"""Scores of views in their place, and what a table says of them; by hand."""

import numpy as np
import pytest

from iso3d_jax.evaluation import embedding, scores, views
from iso3d_jax.metrics import pixels


def test_means_are_over_all_views_those_in_front_and_those_behind():
    azimuth = np.array(
        [[0.0, 60.0, 61.0, 119.0, 120.0, 180.0], [300.0, 299.0, 240.0, 241.0, 0, 90]]
    )
    value = np.arange(12.0).reshape(2, 6)
    found = scores.summary({"psnr": value, "lpips": value / 20}, azimuth)
    front, back = value.ravel()[[0, 1, 6, 10]], value.ravel()[[4, 5, 8]]
    for part, chosen in (("all", value), ("front", front), ("back", back)):
        assert found["mean"][part]["psnr"] == pytest.approx(chosen.mean())
        assert found["mean"][part]["lpips"] == pytest.approx(chosen.mean() / 20)
    sides = found["isotropy"]
    assert sides["psnr"]["back_to_front"] == pytest.approx(back.mean() / front.mean())
    # Where less is better, of 1 less the value.
    want = (1 - back.mean() / 20) / (1 - front.mean() / 20)
    assert sides["lpips"]["back_to_front"] == pytest.approx(want)
    only_front = scores.summary({"psnr": value[:, :1]}, np.zeros((2, 1)))
    assert set(only_front["mean"]) == {"all", "front"}


def test_every_score_is_of_its_own_view(monkeypatch):
    rng = np.random.default_rng(0)
    drawn, truth = rng.random((2, 2, 3, 12, 16, 3))
    pictures = rng.random((2, 12, 16, 3))
    angles = np.zeros((2, 3))
    task = views.ViewTask(["a", "b"], pictures, angles, angles, truth, "", angles, angles)
    unit = lambda x: x[..., 0, 0, :2] / np.linalg.norm(x[..., 0, 0, :2], axis=-1, keepdims=True)  # noqa: E731
    monkeypatch.setattr(scores, "embed_views", lambda model, x: unit(x))
    monkeypatch.setattr(scores, "embed_all", lambda model, x: unit(x))
    perceptual = {"lpips": lambda a, b: (a - 2 * b).mean((1, 2, 3))}
    found = scores.score_views(drawn, task, None, perceptual)
    assert list(found) == [
        "psnr", "ssim", "lpips", "mask_iou", "colour_error", "embedding", "embedding_to_picture",
    ]  # fmt: skip
    for i, v in np.ndindex(2, 3):
        a, b = drawn[i, v], truth[i, v]
        for name in ("psnr", "ssim", "mask_iou", "colour_error"):
            assert found[name][i, v] == pytest.approx(getattr(pixels, name)(a, b)), name
        assert found["lpips"][i, v] == pytest.approx((a - 2 * b).mean())
        assert found["embedding"][i, v] == pytest.approx(unit(a) @ unit(b))
        assert found["embedding_to_picture"][i, v] == pytest.approx(unit(a) @ unit(pictures[i]))
    blind = views.ViewTask(["a", "b"], pictures, angles, angles, None, "", angles, angles)
    assert list(scores.score_views(drawn, blind, None)) == ["embedding_to_picture"]


def test_few_pictures_are_not_embedded_as_many(monkeypatch):
    sizes = []

    def embed_pictures(model, pictures):
        sizes.append(len(pictures))
        return np.stack([pictures[:, 0, 0, 0], 2 + 0 * pictures[:, 0, 0, 0]], -1)[:, None]

    monkeypatch.setattr(embedding.sampling, "embed_pictures", embed_pictures)
    pictures = np.broadcast_to(np.arange(5.0)[:, None, None, None], (5, 4, 4, 3))
    found = embedding.embed_all(None, pictures, batch=2)
    assert sizes == [2, 2, 1]
    for count, batch, expected in ((5, 256, [8]), (1, 256, [1]), (5, 5, [5]), (5, 4, [4, 1])):
        sizes.clear()
        again = embedding.embed_all(None, pictures[:count], batch)
        np.testing.assert_allclose(again, found[:count])
        assert sizes == expected
    want = np.stack([np.arange(5.0), np.full(5, 2.0)], -1)
    np.testing.assert_allclose(found, want / np.linalg.norm(want, axis=-1, keepdims=True))
    of_views = embedding.embed_views(None, pictures[:4].reshape(2, 2, 4, 4, 3))
    np.testing.assert_allclose(of_views.reshape(4, 2), found[:4])
