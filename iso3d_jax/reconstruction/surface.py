"""The mesh of an optimised scene: an automatic threshold, the surface, its colours."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

from iso3d_jax.core.errors import EmptySurface
from iso3d_jax.core.progress import Report, Steps, silent
from iso3d_jax.geometry import camera_sets
from iso3d_jax.geometry.cameras import camera_to_world
from iso3d_jax.mesh import drawing, files, isosurface, remeshing, texture
from iso3d_jax.nerf import field
from iso3d_jax.nerf.field import FieldSpec
from iso3d_jax.reconstruction import pictures
from iso3d_jax.reconstruction.init.hull import cell_middles
from iso3d_jax.reconstruction.pictures import SHOW, Turntable
from iso3d_jax.reconstruction.spec import ReconstructionSpec
from iso3d_jax.reconstruction.state import State
from iso3d_jax.reconstruction.surface_colour import SurfaceColour

CHUNK = 1 << 16


@functools.partial(jax.jit, static_argnames="field_spec")
def _density(params: dict, x: Array, field_spec: FieldSpec) -> Array:
    return field.density(params, x, field_spec)


def visible_density(params: dict, x: np.ndarray, spec: ReconstructionSpec) -> np.ndarray:
    """Density [N] of what rays can meet: nothing outside the sphere where rays are cut by it."""
    density = np.empty(len(x), np.float32)  # in equal chunks
    for first in range(0, len(x), CHUNK):
        part = np.asarray(x[first : first + CHUNK], np.float32)
        padded = np.pad(part, [(0, CHUNK - len(part)), (0, 0)])
        values = _density(params, padded, spec.field)
        density[first : first + CHUNK] = np.asarray(values)[: len(part)]
    if spec.render.bound == "sphere":
        density[np.linalg.norm(x, axis=-1) > spec.field.radius] = 0.0
    return density


def choose_threshold(
    state: State, spec: ReconstructionSpec, resolution: int = 48
) -> tuple[float, float]:
    """The density whose surface has the same silhouettes as the rendered scene.

    A ray is inside the surface's silhouette where its largest density is above the threshold, and
    inside the scene's where its opacity is above one half. Of the thresholds whose overlap
    (intersection over union, over 4 views) is within half a percent of the best, the middle one.

    Returns:
      (threshold, overlap).

    Raises:
      EmptySurface: the scene is empty from all sides.
    """
    views = camera_sets.ring(4, 15.0, 40.0, 1.1, start=20.0)
    shown = list(pictures.shown_views(state, views, resolution, spec))
    opacity = np.stack([view.optimised_opacity for view in shown])
    largest = np.stack([view.densest for view in shown])
    solid = opacity > 0.5
    if not solid.any():
        raise EmptySurface(
            "the surface is empty: no ray through the scene is more than half opaque; optimise "
            "longer, or give a small density such as 1 (--config.mesh.threshold, or export's "
            "--threshold)"
        )
    return _most_alike(solid, largest, np.geomspace(0.3, max(float(largest.max()), 1.0), 60))


def _most_alike(solid: np.ndarray, values: np.ndarray, levels: np.ndarray) -> tuple[float, float]:
    """The middle one of the levels at which values > level overlaps `solid` to half a percent of
    the best (intersection over union), and that best."""
    overlap = np.array(
        [np.sum(solid & (values > c)) / max(np.sum(solid | (values > c)), 1) for c in levels]
    )
    good = levels[overlap >= overlap.max() * 0.995]
    return float(np.sqrt(good[0] * good[-1])), float(overlap.max())


def level_like(density: np.ndarray, solid: np.ndarray, lowest: float) -> tuple[float, float]:
    """The level whose inside, density > level, overlaps a given solid most.

    Args:
      density, solid: of the same points, evenly spread over the scene; solid is boolean.
      lowest: of the levels to choose from.

    Returns:
      (level, overlap): of the levels within half a percent of the best intersection over union,
      the middle one, and the best.
    """
    levels = np.geomspace(lowest, max(float(density.max()), 1.001 * lowest), 60)[:-1]
    return _most_alike(solid, density, levels)


def choose_surface(
    state: State, spec: ReconstructionSpec, hull: Array | None
) -> tuple[float, dict]:
    """The density on the surface, as `spec.show.surface` says, and facts for the report.

    `spec.mesh.threshold`, where it is not 0, is the density itself: the released code takes 25.
    "outline": that of `choose_threshold`, where the rim of the scene begins to hide what is behind.
    "hull": the one whose inside is most like the visual hull of the sampled views; a soft rim lies
    outside of it and would make thin parts fat.

    Args:
      hull: of the sampled views, [G, G, G] over the scene's box, where `draft.wants_hull`; None
        stands for "outline".
    """
    if spec.mesh.threshold:
        return spec.mesh.threshold, {}
    outer, silhouettes = choose_threshold(state, spec)
    facts = {"silhouette_iou": silhouettes}
    if hull is None:
        return outer, facts
    x = np.asarray(cell_middles(hull.shape[0], spec.field.radius))
    density = visible_density(state.params, x, spec)
    solid = np.asarray(hull).reshape(-1) > 0.5
    if not solid.any():  # the views agree on nothing: the scene's own outline is all there is
        return outer, facts
    level, facts["hull_iou"] = level_like(density, solid, outer)
    return level, facts


def sharpen(state: State, spec: ReconstructionSpec, threshold: float) -> State:
    """The scene as people see it: its edge `spec.show.sharpness` times as steep, nothing moved.

    A short optimisation leaves a rim that is half transparent over several pixels, which no mesh
    can show; `field.sharpen` narrows it about the surface that the mesh takes.
    """
    sharpness = spec.show.sharpness
    if sharpness == 1.0:
        return state
    return state._replace(params=field.sharpen(state.params, threshold, sharpness))


def make_mesh(
    state: State,
    spec: ReconstructionSpec,
    threshold: float,
    resolution: int | None = None,
    report: Report = silent,
    remesh: str | None = None,
) -> tuple[texture.TexturedMesh, dict]:
    """Extracts, unwraps and colours the scene's surface.

    Args:
      threshold: density on the surface, see `choose_surface`.
      resolution: of the marching cubes along the object's longest side, or None for the config's.
      report: told what is being done.
      remesh: 'quads' or 'triangles' of even size, about `spec.mesh.faces` of them; see
        `mesh.remeshing`.

    Returns:
      The mesh, and facts for the report: threshold, vertices, faces (triangles), parts, watertight;
      with `remesh` quads, and how many of them the unwrapping has cut into two triangles.
    """
    most = spec.mesh.faces
    surface = isosurface.extract(
        lambda x: visible_density(state.params, x, spec),
        threshold,
        radius=spec.field.radius,
        resolution=resolution or spec.mesh.resolution,
        max_faces=remeshing.AHEAD * most if remesh else most,
        report=report,
        smallest_part=spec.mesh.remove_outliers,
    )
    open_edges, quads = isosurface.bad_edges(surface), 0
    if remesh:
        surface, quads, open_edges = remeshing.remesh(surface, remesh, most, report)
    colour = SurfaceColour(field.raw_field(state.params), threshold, spec.rays_shown, spec.field)
    report("looking at it from all sides", 0, 0)
    vertices, normals = (
        np.asarray(v, np.float32) for v in (surface.vertices, surface.vertex_normals)
    )
    mesh = texture.bake(
        surface, colour.straight, spec.mesh.texture, report, colour.from_sides(vertices, normals),
        quads,
    )  # fmt: skip
    facts = {
        "threshold": float(threshold),
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "parts": int(surface.body_count),
        "watertight": open_edges == 0,
        "edges_not_between_two_triangles": open_edges,
        "texture": spec.mesh.texture,
    }
    if remesh:
        facts |= {"remesh": remesh, "quads": quads, "quads_cut": quads - len(mesh.whole_quads())}
    return mesh, facts


def agreement(mesh: texture.TexturedMesh, turn: Turntable) -> dict[str, float]:
    """How alike the mesh and the scene look from 8 sides, both without light, on white.

    Returns:
      psnr_db over whole pictures and the silhouettes' overlap mask_iou, means of the views.
    """
    frames, azimuths = turn.some(8)
    distance = SHOW["scale"] / np.tan(np.deg2rad(SHOW["fov_deg"]) / 2)
    psnr, overlap = [], []
    for rgb, opacity, azimuth in zip(frames.rgb, frames.opacity, azimuths, strict=True):
        c2w = np.asarray(camera_to_world(SHOW["elevation_deg"], azimuth, distance))
        image, covered = drawing.draw(mesh, c2w, SHOW["fov_deg"], len(rgb))
        error = np.mean(np.square(image - rgb / 255.0))
        psnr.append(-10.0 * np.log10(max(error, 1e-10)))
        ours, theirs = covered > 0.5, opacity > 127
        overlap.append(np.sum(ours & theirs) / max(np.sum(ours | theirs), 1))
    return {"psnr_db": float(np.mean(psnr)), "mask_iou": float(np.mean(overlap))}


def write_mesh(
    path: Path, state: State, spec: ReconstructionSpec, threshold: float,
    resolution: int | None = None, turn: Turntable | None = None,
    options: files.FileOptions | None = None, remesh: str | None = None,
) -> dict:  # fmt: skip
    """Writes the scene's mesh in the format of the path; returns the facts for the report.

    With the frames of a turntable the facts include `agreement` with them, and with the scene as
    the optimisation left it, before its edge was sharpened (`as_optimised`).
    """
    steps = Steps(path.name)
    mesh, facts = make_mesh(state, spec, threshold, resolution, steps, remesh)
    if turn is not None:
        steps("comparing with the scene", 0, 0)
        facts |= agreement(mesh, turn)
        facts["as_optimised"] = agreement(mesh, turn.as_optimised())
    steps("writing", 0, 0)
    written = files.write(path, mesh, options)
    steps.close()
    return facts | {
        "files": [p.name for p in written],
        "bytes": sum(p.stat().st_size for p in written),
    }
