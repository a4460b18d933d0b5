"""Steps of plain pictures: one view, its own embedding, no camera."""

import jax
import numpy as np
import pytest
from flax import nnx

from iso3d_jax.core.errors import UserError
from iso3d_jax.models.unet import NoCamera
from iso3d_jax.planning import compile_for
from iso3d_jax.presets import stage1
from iso3d_jax.training.spec import StageSpec, make_spec
from iso3d_jax.training.tasks import batches, denoiser
from tests.small_training import encoded_table, small_stage

SHARE = dict(picture_share=0.3, data_pictures="there", reference_dropout=0.0)


def loaded(loader="memory", **changes):
    cfg = small_stage(**SHARE | dict(loader=loader, steps=100) | changes)
    pictures = encoded_table(9, views=4)
    for name in ("moments", "embedding"):
        setattr(pictures, name, getattr(pictures, name)[:, :, :1])
    pictures.names = [f"photo {i}" for i in range(9)]
    pictures.azimuth_deg = pictures.elevation_deg = np.zeros((9, 1))
    return batches.make_batches(cfg, encoded_table(), pictures)


def test_their_share_of_the_steps_is_drawn_beside_the_others():
    found = loaded()
    names = [found.branch(step) for step in range(4000)]
    shares = batches.branch_shares(found.cfg)
    assert shares == pytest.approx({"0-a": 0.3, "2-a": 0.7 * 0.3, "2-b": 0.7 * 0.7})
    for name, share in shares.items():
        assert abs(names.count(name) / 4000 - share) < 0.025
    without = loaded(picture_share=0.0)
    others = [without.branch(step) for step in range(4000)]
    assert all(a in ("0-a", b) for a, b in zip(names, others, strict=True))  # the rest stays


@pytest.mark.parametrize("loader", ["memory", "grain"])
def test_a_batch_has_a_view_and_its_own_embedding(loader):
    found = loaded(loader)
    step = next(s for s in range(100) if found.branch(s) == "0-a")
    batch = found(step)
    assert batch.keys() == {"moments", "embedding"} and batch["moments"].shape[:2] == (8, 1)
    for name, moments, embedding in zip(
        found.names(step), batch["moments"], batch["embedding"], strict=True
    ):
        index = int(name.removeprefix("photo "))
        same = (found.pictures.moments[:, index] == moments).all((1, 2, 3, 4))
        assert same.any() and (found.pictures.embedding[same.argmax(), index] == embedding).all()
    part = found(step, np.array([2, 5]))
    assert all(np.array_equal(batch[k][[2, 5]], part[k]) for k in batch)
    assert "camera" in found(next(s for s in range(step, 100) if found.branch(s) != "0-a"))


def test_the_network_is_asked_without_a_camera():
    found = loaded()
    step = next(s for s in range(100) if found.branch(s) == "0-a")
    inputs = denoiser.make_inputs(found(step), jax.random.key(0), found.cfg, 0.7)
    assert "camera" not in inputs and "reference" not in inputs
    asked = []

    def unet(z_t, t, context, camera):
        asked.append(camera)
        return 0 * z_t

    loss, _ = denoiser.loss_of_inputs(unet, inputs, found.cfg)
    assert isinstance(asked[0], NoCamera) and np.isfinite(loss)
    full = make_spec(StageSpec, stage1.get_config("full"))
    shapes = compile_for.abstract_batch(full, "0-a")
    assert shapes.keys() == {"moments", "embedding"} and shapes["moments"].shape[1] == 1


def test_no_camera_leaves_its_part_of_the_time_embedding_out():
    """The camera's layers have no gradient, and another camera's weights change nothing."""
    cfg = small_stage()
    unet = denoiser.build_unet(cfg)
    rng = np.random.default_rng(0)
    arguments = [rng.normal(size=s).astype(np.float32) for s in ((1, 1, 4, 4, 4), (1, 1, 16))]
    z_t, context = arguments
    weights = nnx.state(unet, nnx.Param)  # many are silent at first
    nnx.update(unet, jax.tree.map(lambda w: w + 0.02, weights))
    t, camera = np.array([[5]]), np.ones((1, 1, 16), np.float32)
    with_camera = unet(z_t, t, context, camera)
    without = unet(z_t, t, context, NoCamera())
    assert not np.allclose(with_camera, without)
    unet.camera_embed = None
    np.testing.assert_array_equal(unet(z_t, t, context, None), without)


def test_values_that_do_not_go_together_are_refused():
    denoiser.check_options(small_stage(**SHARE))
    for changes in (dict(data_pictures=""), dict(picture_share=0.0)):
        with pytest.raises(UserError, match="picture_share and data_pictures go together"):
            denoiser.check_options(small_stage(**SHARE | changes))
