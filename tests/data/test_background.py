"""Plain backgrounds taken away: alpha and colours of pictures mixed by hand."""

import numpy as np
import pytest

from iso3d_jax.core.errors import UserError
from iso3d_jax.data.background import remove_plain_background

GROUND, THING = np.array([240.0, 230.0, 220.0]), np.array([40.0, 90.0, 60.0])


def rectangle(height=60, width=80, top=20, bottom=45, left=30, right=65, ground=GROUND):
    """The share of the object in each pixel: mixed by other amounts at each side."""
    share = np.zeros((height, width))
    share[top:bottom, left:right] = 1.0
    share[top:bottom, left], share[top:bottom, right - 1] = 0.3, 0.7
    share[top, left + 1 : right - 1], share[bottom - 1, left + 1 : right - 1] = 0.6, 0.45
    return share, np.rint(share[..., None] * THING + (1 - share[..., None]) * ground)


def test_edges_get_their_share_as_alpha_and_the_objects_colour_without_the_grounds():
    share, rgb = rectangle()
    found = remove_plain_background(rgb.astype(np.uint8)).astype(float)
    # The largest difference of a channel is 200; a quarter of the tolerance of 8 is noise.
    want = np.where(share == 1, 1, np.clip((200 * share - 2) / 198, 0, 1))
    np.testing.assert_allclose(found[..., 3] / 255, want, atol=0.006)
    inner = (share > 0) & (share != share[20, 30])
    np.testing.assert_allclose(found[inner, :3], np.broadcast_to(THING, (inner.sum(), 3)), atol=5)
    assert found.shape == (60, 80, 4)


def test_a_slanted_plane_of_light_is_background():
    y, x = np.mgrid[-1:1:60j, -1:1:80j]
    ground = GROUND - 30 + 20 * x[..., None] - 12 * y[..., None]
    share, rgb = rectangle(ground=ground)
    found = remove_plain_background(np.rint(rgb).astype(np.uint8))
    assert (found[share == 1, 3] == 255).all() and (found[share == 0, 3] == 0).all()
    assert np.abs(found[share == 1, :3] - THING).max() <= 1


def test_an_object_that_touches_the_rim_does_not_bend_the_plane():
    share, rgb = rectangle(top=30, bottom=60, left=10, right=50)
    found = remove_plain_background(rgb.astype(np.uint8))
    assert (found[share == 1, 3] == 255).mean() > 0.99 and (found[share == 0, 3] == 0).all()


def test_what_is_not_joined_to_the_rim_stays_whatever_its_colour():
    share, rgb = rectangle()
    rgb[30:36, 40:50] = GROUND
    found = remove_plain_background(rgb.astype(np.uint8))
    assert (found[31:35, 41:49, 3] == 255).all()
    np.testing.assert_array_equal(found[32, 45, :3], GROUND)
    rgb[30:36, :50] = GROUND  # now a bay of the ground
    assert (remove_plain_background(rgb.astype(np.uint8))[31:35, 41:49, 3] == 0).all()


def test_faint_traces_are_background_beside_a_strong_edge_and_nowhere_else():
    """JPEG's ringing: below a fifth of the contrast within four pixels, and in reach of ground."""
    share, rgb = rectangle()
    rgb[22:43, 28:30] -= 30.0  # a seventh of the contrast, beside the left side
    found = remove_plain_background(rgb.astype(np.uint8))
    assert (found[25:40, 28, 3] == 0).all()
    share, rgb = rectangle()
    rgb[5:15, 5:25] -= 30.0  # as faint, but far away, and a thing of its own
    assert (remove_plain_background(rgb.astype(np.uint8))[7:13, 8:22, 3] == 255).all()


def test_specks_below_a_hundredth_of_the_largest_piece_are_dropped():
    share, rgb = rectangle(top=10, bottom=50, left=20, right=70)  # 2,000 pixels: specks below 20
    rgb[3:6, 3:8] = THING  # 15
    rgb[52:57, 3:8] = THING  # 25
    rgb[57:59, 8:10] = THING  # which goes on across a corner
    found = remove_plain_background(rgb.astype(np.uint8))
    assert not found[3:6, 3:8, 3].any()
    assert (found[53:56, 4:7, 3] == 255).all() and found[58, 9, 3] > 0


def test_refusals():
    rng = np.random.default_rng(0)
    flat = np.full((60, 80, 3), 200, np.uint8)
    with pytest.raises(UserError, match="^x.png shows one plain colour"):
        remove_plain_background(flat, "x.png")
    noise = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
    with pytest.raises(UserError, match="the picture has no transparency and a busy background"):
        remove_plain_background(noise)
    for side, fine in ((1, False), (6, True)):  # 97% of the picture, and 85%
        wide = np.full((90, 600, 3), 200, np.uint8)
        wide[side:-side, side:-side] = THING
        if fine:
            assert remove_plain_background(wide)[45, 300, 3] == 255
        else:
            with pytest.raises(UserError, match="cannot be told from its background"):
                remove_plain_background(wide)


def test_half_of_the_rim_may_be_other_things_but_not_more_than_four_tenths():
    """Things at the rim: a third of it is borne, a half is a busy background."""
    for share, fine in ((0.3, True), (0.55, False)):
        rgb = np.tile(GROUND, (60, 80, 1))
        rim = np.zeros((60, 80), bool)
        rim[:1] = rim[-1:] = rim[:, :1] = rim[:, -1:] = True
        places = np.argwhere(rim)
        for y, x in places[: int(share * len(places))]:
            rgb[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = (30.0 + x, 40.0 + y, 250.0 - 2 * x)
        rgb[25:45, 30:60] = THING
        if fine:
            assert remove_plain_background(rgb.astype(np.uint8))[35, 45, 3] == 255
        else:
            with pytest.raises(UserError, match="busy background"):
                remove_plain_background(rgb.astype(np.uint8))
