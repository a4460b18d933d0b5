"""Surface, texture and files, on a scene whose shape and colours are known."""

import numpy as np
import pytest
import trimesh
from scipy.spatial import KDTree

from iso3d_jax.core.errors import UserError
from iso3d_jax.mesh import drawing, files, isosurface, texture

CENTRE, HALF = np.array([0.1, -0.05, 0.0]), np.array([0.5, 0.3, 0.2])


def density(x):
    """An ellipsoid, and a speck beside it that must go."""
    inside = 1.0 - np.linalg.norm((x - CENTRE) / HALF, axis=-1)
    speck = 0.06 - np.linalg.norm(x - np.array([-0.7, 0.7, 0.7]), axis=-1)
    return np.maximum(20.0 * inside, 200.0 * speck)


def colour(x):
    """The front (+x) is red and the back blue; green grows upwards."""
    front = (x[:, 0] > CENTRE[0]).astype(np.float32)
    return np.stack([front, np.clip(0.5 + x[:, 2], 0, 1), 1 - front], -1)


@pytest.fixture(scope="module")
def surface():
    return isosurface.extract(density, 5.0, resolution=48, smallest_part=0.03)


@pytest.fixture(scope="module")
def textured(surface):
    return texture.bake(surface, lambda x, normal: colour(x), 256)


def test_surface_is_closed_outward_and_where_it_should_be(surface):
    assert surface.is_watertight and surface.body_count == 1
    expected = 4 / 3 * np.pi * np.prod(HALF * 0.75)
    assert surface.volume == pytest.approx(expected, rel=0.03)
    radius = np.linalg.norm((surface.vertices - CENTRE) / HALF, axis=-1)
    np.testing.assert_allclose(radius, 0.75, atol=0.015)


def test_parts_below_a_share_of_the_largest_one_s_faces_are_dropped():
    """Faces are counted, as threestudio does, not volume; the share is rounded down to a face."""
    ball, speck = trimesh.creation.icosphere(4), trimesh.creation.icosphere(1)  # 5120, 80 faces
    both = trimesh.util.concatenate(ball, speck.apply_translation((3, 0, 0)))
    for share, parts in ((0.01, 2), (80 / 5120, 2), (80.9 / 5120, 2), (81 / 5120, 1), (0.03, 1)):
        assert isosurface.drop_small_parts(both, share).body_count == parts, share


def test_number_of_faces_is_limited_and_emptiness_refused(surface):
    fewer = isosurface.extract(density, 5.0, resolution=48, max_faces=1000, smallest_part=0.03)
    assert 900 <= len(fewer.faces) <= 1000 < len(surface.faces)
    assert isosurface.bad_edges(fewer) == 0 and fewer.is_watertight
    assert fewer.volume == pytest.approx(surface.volume, rel=0.01)
    radius = np.linalg.norm((fewer.vertices - CENTRE) / HALF, axis=-1)
    np.testing.assert_allclose(radius, 0.75, atol=0.02)
    with pytest.raises(UserError, match="surface is empty"):
        isosurface.extract(density, 1e4)


def test_no_triangle_is_without_area_and_open_edges_are_counted(surface):
    assert surface.area_faces.min() > 1e-9
    opened = surface.copy()
    opened.update_faces(np.arange(len(opened.faces)) != 7)
    assert isosurface.bad_edges(surface) == 0 and isosurface.bad_edges(opened) == 3


def test_drawing_shows_the_front_and_its_colours(textured):
    """A camera on +x sees the red side, as large as the ellipsoid's outline, green above."""
    c2w = np.array([[0.0, 0, 1, 5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    image, covered = drawing.draw(textured, c2w, 20.0, 64)
    inside = covered > 0.99
    np.testing.assert_allclose(image[covered == 0], 1.0)
    expected = np.pi * np.prod(HALF[1:] * 0.75) / (2 * np.tan(np.deg2rad(10)) * 4.9) ** 2
    assert covered.mean() == pytest.approx(expected, rel=0.03)
    assert image[inside, 0].mean() > 0.95 and image[inside, 2].mean() < 0.05
    rows = np.flatnonzero(inside.any(1))
    green = [image[row, inside[row], 1].mean() for row in rows]
    assert green[0] > 0.6 and green[-1] < 0.4
    assert np.flatnonzero(inside.any(0)).mean() < 31.5  # its centre is at y < 0, on the left


def test_texture_holds_the_field_at_every_face(textured):
    centres = textured.uv[textured.faces].mean(1)
    size = len(textured.texture)
    column = (centres[:, 0] * size).astype(int)
    row = ((1 - centres[:, 1]) * size).astype(int)
    seen = textured.texture[row, column] / 255.0
    at = textured.vertices[textured.faces].mean(1)
    edges = np.diff(textured.vertices[textured.faces], axis=1)
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1)
    clear = (np.abs(at[:, 0] - CENTRE[0]) > 0.03) & (area > 1e-7)
    assert np.abs(seen - colour(at))[clear].max() < 0.06
    assert (textured.uv >= 0).all() and (textured.uv <= 1).all()


def sampled_colours(mesh):
    """Colours of a loaded mesh at its vertices: [V, 3] in [0, 1]."""
    material = mesh.visual.material
    image = getattr(material, "baseColorTexture", None) or material.image
    pixels = np.asarray(image.convert("RGB")) / 255.0
    column = np.clip((mesh.visual.uv[:, 0] * pixels.shape[1]).astype(int), 0, pixels.shape[1] - 1)
    row = np.clip(((1 - mesh.visual.uv[:, 1]) * pixels.shape[0]).astype(int), 0, len(pixels) - 1)
    return pixels[row, column]


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_files_face_plus_z_with_y_up_and_keep_their_colours(textured, tmp_path, suffix):
    written = files.write(tmp_path / f"m.{suffix}", textured)
    assert all(path.stat().st_size > 0 for path in written)
    assert len(written) == (1 if suffix == "glb" else 3)
    mesh = trimesh.load(written[0], force="mesh", process=False)
    assert len(mesh.faces) == len(textured.faces)
    low, high = mesh.bounds
    np.testing.assert_allclose(high - low, 2 * 0.75 * HALF[[1, 2, 0]], atol=0.02)
    np.testing.assert_allclose((high + low) / 2, CENTRE[[1, 2, 0]], atol=0.02)
    colours, vertices = sampled_colours(mesh), np.asarray(mesh.vertices)
    front, back = vertices[:, 2] > 0.2, vertices[:, 2] < 0.0
    assert colours[front, 0].mean() > 0.98 and colours[back, 2].mean() > 0.98
    up = np.abs(colours[:, 1] - (0.5 + vertices[:, 1]))  # up is +Y
    assert np.mean(up < 0.03) > 0.99
    normals = np.asarray(mesh.vertex_normals)
    assert np.mean(np.sum(normals * (vertices - CENTRE[[1, 2, 0]]), -1) > 0) > 0.99
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    merged.merge_vertices(merge_tex=True, merge_norm=True)
    assert merged.is_watertight and merged.volume > 0


def test_glb_material_is_a_plain_srgb_texture(textured, tmp_path):
    (path,) = files.write(tmp_path / "m.glb", textured)
    mesh = trimesh.load(path, force="mesh")
    material = mesh.visual.material
    assert material.metallicFactor == 0.0 and list(material.baseColorFactor) == [255] * 4
    np.testing.assert_array_equal(np.asarray(material.baseColorTexture)[..., :3], textured.texture)


def test_ply_keeps_the_scene_axes(textured, tmp_path):
    (path,) = files.write(tmp_path / "m.ply", textured)
    mesh = trimesh.load(path, process=False)
    np.testing.assert_allclose(mesh.bounds.mean(0), CENTRE, atol=0.02)
    assert mesh.is_watertight and len(mesh.vertices) < len(textured.vertices)
    # What the unwrapping cut apart is one vertex again, of the same place and colour.
    distance, same = KDTree(mesh.vertices).query(textured.vertices)
    assert distance.max() < 1e-6
    np.testing.assert_array_equal(mesh.visual.vertex_colors[same, :3], textured.colours)
    with pytest.raises(UserError, match="3mf or .usdz, not in 'm.fbx'"):
        files.write(tmp_path / "m.fbx", textured)
