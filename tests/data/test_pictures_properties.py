"""What holds for any picture that is fitted to a frame."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from iso3d_jax.data.pictures import area_resize, prepare_picture, visible_box

quick = settings(deadline=None, max_examples=40, derandomize=True, database=None)
sides = st.integers(4, 24)


def thing(height, width, seed):
    rgba = np.random.default_rng(seed).integers(0, 256, (height, width, 4)).astype(np.uint8)
    rgba[..., 3] |= 128
    return rgba


def placed(rgba, top, left, height=60, width=50):
    picture = np.zeros((height, width, 4), np.uint8)
    picture[top : top + rgba.shape[0], left : left + rgba.shape[1]] = rgba
    return picture


@quick
@given(height=sides, width=sides, top=st.integers(0, 36), left=st.integers(0, 26),
       seed=st.integers(0, 99))  # fmt: skip
def test_a_centred_picture_is_the_same_wherever_the_object_is(height, width, top, left, seed):
    rgba = thing(height, width, seed)
    picture = placed(rgba, top, left)
    assert visible_box(picture[..., 3]) == (left, top, left + width, top + height)
    frame = prepare_picture(picture, 32)
    np.testing.assert_array_equal(frame, prepare_picture(placed(rgba, 0, 0), 32))
    # Turned over it is turned over, and nothing is drawn outside of the middle 0.85 of a side.
    flipped = prepare_picture(picture[:, ::-1], 32)
    np.testing.assert_allclose(flipped[:, ::-1], frame, atol=1.01 / 255)
    flipped = prepare_picture(picture[::-1], 32)
    np.testing.assert_allclose(flipped[::-1], frame, atol=1.01 / 255)
    share = 0.85 * np.array([height, width]) / max(height, width) * 32
    for axis, length in enumerate(share):
        seen = np.flatnonzero((frame < 0.9).any((1 - axis, 2)))
        reach = 32 / (max(height, width) / 0.85) + 1  # a pixel of the picture, and one of the frame
        assert seen[0] >= 16 - length / 2 - reach and seen[-1] + 1 <= 16 + length / 2 + reach


@quick
@given(height=sides, width=sides, seed=st.integers(0, 99))
def test_a_framed_picture_keeps_its_ink(height, width, seed):
    """White is added to a square; what there is of ink stays, per area of the picture."""
    rgba = thing(height, width, seed)
    alpha = rgba[..., 3:] / 255
    ink = (1 - rgba[..., :3] / 255) * alpha
    frame = prepare_picture(rgba, 48, "framed")
    scale = (48 / max(height, width)) ** 2
    # Cubic weights overshoot, and what leaves the range of bytes is cut off.
    np.testing.assert_allclose((1 - frame).sum(), ink.sum() * scale, rtol=0.08)


@quick
@given(height=st.integers(8, 30), width=st.integers(8, 30), size=st.integers(1, 8),
       seed=st.integers(0, 99))  # fmt: skip
def test_means_of_areas_keep_the_mean_and_turn_with_the_picture(height, width, size, seed):
    image = thing(height, width, seed)
    small = area_resize(image, size)
    np.testing.assert_allclose(small.mean((0, 1)), image.mean((0, 1)), atol=0.51)
    np.testing.assert_allclose(area_resize(image[::-1], size)[::-1].astype(int), small, atol=1)
    turned = area_resize(image.transpose(1, 0, 2), size).transpose(1, 0, 2)
    np.testing.assert_allclose(turned.astype(int), small, atol=1)
