"""Cross-view consistency: how well one object can explain all the views at once.

A radiance field is fitted to the views as if they were photographs from their cameras, with the
settings of a reconstruction's draft, and renders them again. The score is the PSNR of the views
against those renderings. No truth is needed, and views that no object has score low whatever each
of them looks like. Blank views are trivially consistent: read it beside the other scores.

The cameras: the given azimuths and elevations, the field of view and distance that a draft
assumes (`DraftSpec`), unless given.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from iso3d_jax.geometry.camera_sets import Cameras, Poses, given_cameras
from iso3d_jax.reconstruction import pictures, state
from iso3d_jax.reconstruction.init import draft
from iso3d_jax.reconstruction.spec import DraftSpec, ReconstructionSpec
from iso3d_jax.reconstruction.step import run_steps

STEPS = 150
# The fit's settings, part of the protocol: configs/reconstruct.py says what each is.
FIT = dict(
    field=dict(levels=6, features=2, log2_table_size=13, base_resolution=8, growth=1.4, hidden=16,
               radius=1.0, blob_scale=10.0, blob_std=0.5),
    render=dict(step_size=2 / 40, bound="sphere", candidates=16.0, samples=8.0, normals=1.0,
                alpha_threshold=0.0, early_stop=1e-4, chunk=0),
    occupancy=dict(resolution=16, every=16, decay=0.95, threshold=0.01),
    draft=dict(rays=1024, mask=0.5, opaque=0.0, sparsity=0.0, orientation=0.0),
    optimizer=dict(encoding=0.03, networks=0.01, b1=0.9, b2=0.99, eps=1e-15, weight_decay=0.0,
                   final=0.1),
)  # fmt: skip


def fit_spec(spec: ReconstructionSpec, resolution: int, steps: int = STEPS) -> ReconstructionSpec:
    """The fit's numbers: small, short and the same for every model, whatever its own settings are.

    Args:
      spec: for what is not fixed here.
      resolution: of the views, pixels.
      steps: iterations.
    """
    shorter = dataclasses.replace(spec, draft=dataclasses.replace(spec.draft, steps=steps))
    fit = draft.draft_spec(shorter, resolution)
    sections = {
        name: dataclasses.replace(getattr(fit, name), **values) for name, values in FIT.items()
    }
    return dataclasses.replace(fit, steps_per_call=steps, seed=0, **sections)


def make_cameras(
    azimuth_deg: Float[np.ndarray, " V"],
    elevation_deg: Float[np.ndarray, " V"],
    draft_spec: DraftSpec,
    fov_deg=None,
    distance=None,
) -> Cameras:
    """Cameras of V views; field of view and distance are the draft's unless given."""
    return given_cameras(
        azimuth_deg, elevation_deg, draft_spec.fov_deg if fov_deg is None else fov_deg,
        scale=draft_spec.distance, distance=distance,
    )  # fmt: skip


def explain(
    views: Float[np.ndarray, "V H W 3"], cameras: Cameras | Poses, spec: ReconstructionSpec
) -> tuple[float, Float[np.ndarray, "V H W 3"]]:
    """Fits one radiance field to the views.

    Args:
      spec: from `fit_spec`. Objects of equal numbers of views share the compiled program.

    Returns:
      The PSNR in dB over all views, and the views as the field shows them.
    """
    current, _ = run_steps(
        state.start(spec), pictures.from_views(views, cameras), jnp.int32(spec.steps),
        jax.random.key(spec.seed), capacity=spec.steps, spec=spec,
        denoiser_spec=draft.fit_alone(views.shape[1]), phase=0,
    )  # fmt: skip
    return pictures.seen_again(current, np.asarray(views), cameras, spec)


def consistency(
    views: Float[np.ndarray, "N V H W 3"],
    azimuth_deg: Float[np.ndarray, "N V"],
    elevation_deg: Float[np.ndarray, "N V"],
    spec: ReconstructionSpec,
) -> Float[np.ndarray, " N"]:
    """The PSNR in dB with which one object explains each object's views."""
    scores = []
    for i in range(len(views)):
        cameras = make_cameras(azimuth_deg[i], elevation_deg[i], spec.draft)
        scores.append(explain(views[i], cameras, spec)[0])
    return np.array(scores)
