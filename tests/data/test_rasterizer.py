"""The renderer's matrices and filter by hand, and what it makes of materials and textures."""

import numpy as np
import pytest

from iso3d_jax.data import rasterizer
from iso3d_jax.data.lights import EVEN, Light
from iso3d_jax.data.meshes import Glow, Part
from iso3d_jax.data.textures import linear_to_srgb, srgb_to_linear
from iso3d_jax.geometry import cameras

RESOLUTION = 24


def wall(x=0.0, half=0.5, colour=(0.5, 0.25, 0.75), opacity=1.0, texture=None, normal=(1, 0, 0)):
    """A square across the x axis, its texture's lower left at -y, -z."""
    corner = np.array([[x, -half, -half], [x, half, -half], [x, half, half], [x, -half, half]])
    uv = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    index = np.array([[0, 1, 2], [0, 2, 3]])
    normals = np.broadcast_to(np.array(normal, float), (2, 3, 3))
    return Part(corner[index], normals, uv[index], colour, opacity, texture)


def draw(machine, *parts, elevation=0.0, azimuth=0.0, fov=40.0, distance=3.0):
    machine.load(list(parts))
    c2w = np.asarray(cameras.camera_to_world(elevation, azimuth, distance))
    return machine.render(c2w, fov).astype(int)


def test_the_projection_takes_the_frustums_corners_to_those_of_the_cube():
    matrix = rasterizer.projection(60.0, 2.0, 10.0)
    reach = np.tan(np.radians(30.0))
    for depth, z in ((2.0, -1.0), (10.0, 1.0)):
        for x, y in ((1, 1), (-1, 1), (1, -1)):
            clip = matrix @ [x * reach * depth, y * reach * depth, -depth, 1.0]
            np.testing.assert_allclose(clip[:3] / clip[3], [x, y, z], atol=1e-12)
            assert clip[3] == pytest.approx(depth)


def test_the_worlds_matrix_undoes_the_cameras():
    c2w = np.asarray(cameras.camera_to_world(20.0, 130.0, 2.5), np.float64)
    np.testing.assert_allclose(rasterizer.world_to_camera(c2w) @ c2w, np.eye(4), atol=1e-6)


def test_pixels_are_means_of_their_own_squares_in_straight_alpha():
    """Of 2 by 3 squares of 2 by 2; colours weigh by their alpha."""
    picture = np.zeros((4, 6, 4), np.uint8)
    picture[0, 0], picture[1, 1] = [204, 102, 0, 204], [0, 24, 51, 51]  # premultiplied
    picture[2:, 4:] = [64, 128, 191, 255]
    picture[0, 2] = [230, 230, 230, 0]  # what has no alpha has no colour
    picture[0, 4] = [2, 2, 2, 2]  # half a byte when shared by four
    out = rasterizer.shrink(picture, 2)
    assert out.shape == (2, 3, 4) and out.dtype == np.uint8
    np.testing.assert_array_equal(out[0, 0], [204, 126, 51, 64])
    np.testing.assert_array_equal(out[1, 2], [64, 128, 191, 255])
    assert not out[0, 1].any() and not out[0, 2].any() and not out[1, :2].any()
    full = np.full((32, 32, 4), 255, np.uint8)  # the most that is added up
    np.testing.assert_array_equal(rasterizer.shrink(full, 16), np.full((2, 2, 4), 255))
    some = np.random.default_rng(0).integers(0, 256, (12, 20, 4)).astype(np.uint8)
    some[..., :3] = some[..., :3] * (some[..., 3:] / 255)
    mean = some.reshape(3, 4, 5, 4, 4).mean((1, 3))
    want = np.concatenate([mean[..., :3] / mean[..., 3:] * 255, mean[..., 3:]], -1)
    assert np.abs(rasterizer.shrink(some, 4) - want).max() <= 0.501


def test_a_wall_is_where_it_is_and_has_its_light(machine):
    """Head-on 0.96 of the colour; its back is lit as its front, and from above there is more."""
    image = draw(machine, wall())
    half = 0.5 / 3.0 / np.tan(np.radians(20.0)) * RESOLUTION / 2
    assert image[..., 3].sum() / 255 == pytest.approx((2 * half) ** 2, rel=0.03)
    middle = image[RESOLUTION // 2, RESOLUTION // 2]
    np.testing.assert_allclose(middle, [0.96 * 127.5, 0.96 * 63.75, 0.96 * 191.25, 255], atol=1.5)
    np.testing.assert_allclose(draw(machine, wall(), azimuth=180.0)[12, 12], middle, atol=1)
    top = draw(machine, wall(normal=(0, 0, 1)))[12, 12]  # 0.42 + 0.28 and nothing head-on
    np.testing.assert_allclose(top[:3], 0.7 * np.array([127.5, 63.75, 191.25]), atol=4)
    slant = draw(machine, wall(normal=(0.6, 0.8, 0)))[12, 12]  # 0.42 + 0.14 + 0.4 x 0.6
    np.testing.assert_allclose(slant[:3], 0.80 * np.array([127.5, 63.75, 191.25]), atol=4)
    none = draw(machine, wall(normal=(0, 0, 0)))[12, 12]  # as if it faced the eye
    np.testing.assert_allclose(none, middle, atol=1)


def test_nearer_things_hide_farther_ones_in_any_order(machine):
    red, blue = (0.8, 0.0, 0.0), (0.0, 0.0, 0.8)
    near, far = wall(0.4, 0.25, red), wall(-0.4, 0.5, blue)
    for parts in ((near, far), (far, near)):
        image = draw(machine, *parts)
        assert image[12, 12, 0] > 150 > 10 > image[12, 12, 2]
        assert draw(machine, *parts, azimuth=180.0)[12, 12, 2] > 150


def test_see_through_walls_are_mixed_from_the_back_to_the_front(machine):
    red, blue = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    near, far = wall(0.4, 0.4, red, 0.5), wall(-0.4, 0.4, blue, 0.5)
    for parts in ((near, far), (far, near)):
        image = draw(machine, *parts)[12, 12]
        # 0.5 of red over 0.25 of blue, of 0.75 in all.
        np.testing.assert_allclose(image, [0.96 * 255 * 2 / 3, 0, 0.96 * 255 / 3, 191], atol=3)
    solid = draw(machine, near, wall(-0.4, 0.4, blue))[12, 12]
    np.testing.assert_allclose(solid, [0.96 * 127.5, 0, 0.96 * 127.5, 255], atol=3)
    hidden = draw(machine, wall(-0.4, 0.4, red, 0.5), wall(0.4, 0.4, blue))[12, 12]
    assert hidden[0] == 0 and hidden[3] == 255


def test_what_is_next_to_invisible_is_not_drawn(machine):
    assert not draw(machine, wall(opacity=0.019)).any()
    assert draw(machine, wall(opacity=0.021))[12, 12, 3] in (5, 6)


def textured(*alphas):
    """Four squares of red, green (at the top), blue and white, with these alphas."""
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]])
    alpha = np.array(alphas).reshape(2, 2, 1)
    return np.concatenate([colours, alpha], -1).repeat(8, 0).repeat(8, 1).astype(np.uint8)


def corners(image):
    """The middle of each quarter of the wall, as rows of two."""
    return [[image[y, x] for x in (8, 15)] for y in (8, 15)]


WHITE = (1.0, 1.0, 1.0)


def test_a_texture_lies_as_its_coordinates_say(machine):
    image = draw(machine, wall(texture=textured(255, 255, 255, 255), colour=WHITE))
    ((a, b), (c, d)) = corners(image)
    full = 0.96 * 255
    for pixel, want in ((a, [full, 0, 0]), (b, [0, full, 0]), (c, [0, 0, full]), (d, [full] * 3)):
        np.testing.assert_allclose(pixel, [*want, 255], atol=4)


def test_sharp_holes_are_cut_out_and_soft_ones_are_mixed(machine):
    ((a, b), _) = corners(draw(machine, wall(texture=textured(255, 0, 255, 255))))
    assert a[3] == 255 and b[3] == 0
    ((a, b), _) = corners(draw(machine, wall(texture=textured(255, 128, 128, 128))))
    assert a[3] == 255 and abs(b[3] - 128) <= 2
    # What is cut out is whole where it is not: leaves hide what is behind them.
    behind = wall(-0.3, 0.5, (0.0, 0.0, 0.9))
    front = wall(0.3, 0.4, WHITE, texture=textured(240, 0, 240, 240))
    ((a, b), _) = corners(draw(machine, behind, front))
    np.testing.assert_allclose(a[:3], [0.96 * 255, 0, 0], atol=8)
    assert b[2] > 200 > 10 > b[0]


def test_a_texture_of_a_see_through_material_is_mixed(machine):
    ((a, _), _) = corners(draw(machine, wall(opacity=0.5, texture=textured(255, 0, 255, 255))))
    assert abs(a[3] - 128) <= 2


def test_edges_of_the_frame_are_drawn_too(machine):
    """Where nothing is nothing is added up; so the outermost pixels matter."""
    corner = wall(0.0, 2.0)
    assert (draw(machine, corner)[..., 3] == 255).all()
    corner.positions = corner.positions + np.array([0.0, 2.6, 2.6])  # the upper corner
    seen = draw(machine, corner)[..., 3] > 127
    inside = np.zeros_like(seen)
    inside[:5, -5:] = True
    assert seen[0, -1] and not seen[-1, 0] and (seen != inside).sum() <= 12
    assert not draw(machine).any()


def test_objects_replace_one_another(machine):
    draw(machine, wall(colour=(1.0, 0.0, 0.0)))
    image = draw(machine, wall(0.0, 0.2, (0.0, 1.0, 0.0)))
    assert image[12, 12, 1] > 200 and not image[..., 0].any()


def test_factors_multiply_textures_and_tints_as_linear_light_where_the_part_says_so(machine):
    grey = np.full((2, 2, 4), 188, np.uint8)  # half the light
    grey[..., 3] = 255
    part = wall(colour=(0.735357, 0.0, 0.0), texture=grey)
    part.tint = np.full((2, 3, 4), 0.5)
    product = draw(machine, part)[12, 12]
    np.testing.assert_allclose(product[:3], [0.96 * 255 * 0.735357**2 * 0.5, 0, 0], atol=2)
    part.linear = True
    np.testing.assert_allclose(draw(machine, part)[12, 12, :3], [0.96 * 99, 0, 0], atol=2)  # 1/8


def test_alpha_is_ignored_cut_or_mixed_as_the_part_says(machine):
    part = wall(texture=textured(255, 128, 26, 0), colour=WHITE)
    part.linear = True
    for mode, cutoff, want in (
        ("opaque", 0.5, [255, 255, 255, 255]),
        ("mask", 0.05, [255, 255, 255, 0]),
        ("mask", 0.3, [255, 255, 0, 0]),
        ("blend", 0.5, [255, 128, 26, 0]),
    ):
        part.alpha, part.cutoff = mode, cutoff
        (a, b), (c, d) = corners(draw(machine, part))
        np.testing.assert_allclose([p[3] for p in (a, b, c, d)], want, atol=3)
    part.alpha, part.opacity = "opaque", 0.0
    assert draw(machine, part)[12, 12, 3] == 255


def test_what_is_solid_of_a_mixed_part_hides_what_is_behind_it(machine):
    """In whatever order they are drawn: the nearer wall's middle is farther than the other's."""
    near, far = wall(0.4, 0.4, (1.0, 0.0, 0.0)), wall(-0.4, 0.4, (0.0, 0.0, 1.0))
    for part in (near, far):
        part.alpha = "blend"
    for parts in ((near, far), (far, near)):
        assert draw(machine, *parts)[12, 12].tolist()[1:] == [0, 0, 255]


def test_backs_are_drawn_of_two_sided_parts_alone(machine):
    part = wall()
    part.two_sided = False
    assert draw(machine, part)[12, 12, 3] == 255
    assert not draw(machine, part, azimuth=180.0).any()
    part.two_sided = True
    assert draw(machine, part, azimuth=180.0)[12, 12, 3] == 255


def test_light_of_its_own_needs_no_other_and_is_added(machine):
    part = wall(colour=(0.0, 0.0, 0.0))
    part.glow = Glow((0.2158605, 0.0, 1.0))
    np.testing.assert_allclose(
        draw(machine, part, elevation=40.0)[12, 12], [128, 0, 255, 255], atol=1
    )
    part.glow = Glow((1.0, 1.0, 1.0), part.uv, textured(255, 255, 255, 255))
    (a, b), (c, _) = corners(draw(machine, part))
    assert a[:3].tolist() == [255, 0, 0] and b[1] == 255 and c[2] == 255
    lit = wall(colour=(0.735357, 0.0, 0.0))  # of which 0.96 are seen
    lit.glow = Glow((0.25, 0.0, 0.0))
    want = 255 * linear_to_srgb(srgb_to_linear(0.96 * 0.735357) + 0.25)
    np.testing.assert_allclose(draw(machine, lit)[12, 12, 0], want, atol=2)
    bare = wall(normal=(0, 0, 1), colour=(0.5, 0.5, 0.5))
    bare.unlit = True
    np.testing.assert_allclose(draw(machine, bare)[12, 12, :3], 127.5, atol=1)


def test_beyond_its_edges_a_texture_repeats_turns_back_or_stays(machine):
    """Red on the left half, green on the right, over coordinates from 0 to 2."""
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:, :4], picture[:, 4:] = [255, 0, 0, 255], [0, 255, 0, 255]
    seen = {}
    for wrap in ("repeat", "mirror", "clamp"):
        part = wall(texture=picture, colour=WHITE)
        part.uv, part.wrap = part.uv * 2, (wrap, "repeat")
        image = draw(machine, part)
        seen[wrap] = ["rg"[int(image[12, x, 1] > image[12, x, 0])] for x in (7, 10, 13, 16)]
    assert seen == {"repeat": list("rgrg"), "mirror": list("rggr"), "clamp": list("rggg")}


def test_texels_seen_from_near_by_are_squares_or_slopes(machine):
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[:, 1], picture[..., 3] = 255, 255
    part = wall(texture=picture, colour=WHITE)
    part.wrap = ("clamp", "clamp")
    slope = draw(machine, part)[12, :, 0]
    part.nearest = True
    squares = draw(machine, part)[12, :, 0]
    assert ((slope[6:18] > 30) & (slope[6:18] < 220)).sum() > 3
    assert ((squares > 30) & (squares < 220)).sum() <= 1


def view_from(elevation=0.0, azimuth=0.0, fov=40.0, distance=3.0):
    return np.asarray(cameras.camera_to_world(elevation, azimuth, distance)), fov


def test_layers_are_depth_normals_and_colours_without_light(machine):
    slant = wall(0.2, 0.5, (0.5, 0.25, 0.75), normal=(0.6, 0.8, 0))
    machine.load([slant])
    view = view_from()
    picture = machine.render(*view)
    albedo = machine.render_layer("albedo", *view)
    np.testing.assert_allclose(albedo[12, 12], [127.5, 63.75, 191.25, 255], atol=1)
    np.testing.assert_array_equal(albedo[..., 3], picture[..., 3])
    depth = machine.render_layer("depth", *view)
    np.testing.assert_allclose(depth[picture[..., 3] > 0], 2.8, atol=1e-4)
    assert not depth[picture[..., 3] == 0].any()
    normals = machine.render_layer("normals", *view)
    np.testing.assert_allclose(normals[12, 12], [0.6, 0.8, 0], atol=0.01)
    assert not normals[0, 0].any() and normals.dtype == depth.dtype == np.float32
    back = machine.render_layer("normals", *view_from(azimuth=180.0))
    np.testing.assert_allclose(back[12, 12], [-0.6, -0.8, 0], atol=0.01)  # it faces the eye
    np.testing.assert_array_equal(machine.render(*view), picture)  # as before


def test_depth_is_along_the_cameras_axis_and_rows_begin_at_the_top(machine):
    """Of a wall seen from above: what is at the top of the picture is farther."""
    machine.load([wall(half=0.5)])
    depth = machine.render_layer("depth", *view_from(elevation=30.0))
    column = depth[:, 12][depth[:, 12] > 0]
    assert (np.diff(column) > 0).all() and column[0] < 3.0 < column[-1]  # its top leans to the eye
    # A point z up on the wall is z sin(30) nearer.
    assert column[0] == pytest.approx(3.0 - 0.5 * 0.5, abs=0.03)


def test_depth_and_normals_are_of_what_is_half_opaque(machine):
    near = wall(0.4, 0.5, (1.0, 0.0, 0.0), 0.4)
    machine.load([near, wall(-0.4, 0.5, normal=(0, 0, 1))])
    assert machine.render_layer("depth", *view_from())[12, 12] == pytest.approx(3.4, abs=1e-3)
    np.testing.assert_allclose(
        machine.render_layer("normals", *view_from())[12, 12], [0, 0, 1], atol=0.01
    )
    near.opacity = 0.6
    machine.load([near, wall(-0.4, 0.5)])
    assert machine.render_layer("depth", *view_from())[12, 12] == pytest.approx(2.6, abs=1e-3)


def test_a_light_of_an_objects_own_is_what_its_numbers_say(machine):
    part = wall(colour=(0.5, 0.5, 0.5), normal=(0.6, 0.0, 0.8))
    light = Light(0.2, 0.05, 0.1, 0.4, (0.8, 0.0, 0.6))
    machine.load([part], light)
    want = 0.2 + 0.05 * 1.8 + 0.1 * 0.6 + 0.4 * 0.96
    seen = machine.render(*view_from())[12, 12]
    np.testing.assert_allclose(seen[:3], want * 127.5, atol=2)
    machine.load([part], light._replace(direction=(-0.8, 0.0, -0.6)))  # from behind: none of it
    assert machine.render(*view_from())[12, 12, 0] == pytest.approx(0.35 * 127.5, abs=2)
    machine.load([part], light._replace(ambient=3.0))
    assert machine.render(*view_from())[12, 12, 0] == pytest.approx(127.5, abs=1)
    machine.load([part])
    even = machine.render(*view_from())
    machine.load([part], Light(*EVEN))  # the formula of both is one
    assert np.abs(machine.render(*view_from()).astype(int) - even).max() <= 1
