"""From where objects are seen: named ranges of the cameras of a data set.

A camera's distance is s / tan(fov / 2), at which an object that fills the unit sphere takes up the
same part of the picture whatever the field of view; s is the range's scale. The three names differ
in it: MVDream's training (https://arxiv.org/abs/2308.16512, appendix; scale 0.9 to 1.1), the
score distillation that Isotropic3D released (0.8 to 1.0), and the data sets of this project
(1.0 to 1.15, no part of an object beyond the frame). A model that is distilled at 0.8 to 1.0 sees
objects larger than one that was trained at 1.0 to 1.15 ever did.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from iso3d_jax.core.errors import UserError

DEFAULT = "iso3d"
_ROUNDING = 1e-3  # of float32 angles and distances


class CameraRange(NamedTuple):
    """Bounds of uniform draws: degrees, and the scale of the distance."""

    elevation_deg: tuple[float, float]
    fov_deg: tuple[float, float]
    scale: tuple[float, float]

    def sample(self, rng: np.random.Generator) -> tuple[float, float, float]:
        """An orthogonal set's elevation and field of view in degrees, and its distance."""
        elevation, fov = rng.uniform(*self.elevation_deg), rng.uniform(*self.fov_deg)
        return elevation, fov, rng.uniform(*self.scale) / np.tan(np.radians(fov) / 2)


RANGES = {
    "iso3d": CameraRange((0.0, 30.0), (15.0, 60.0), (1.0, 1.15)),
    "mvdream": CameraRange((0.0, 30.0), (15.0, 60.0), (0.9, 1.1)),
    "sds": CameraRange((0.0, 30.0), (15.0, 60.0), (0.8, 1.0)),
}


def find_range(name: str) -> CameraRange:
    """A range by its name.

    Raises:
      UserError: there is none of that name.
    """
    if name in RANGES:
        return RANGES[name]
    near = difflib.get_close_matches(name, RANGES, 1)
    raise UserError(
        f"there is no camera range '{name}'"
        + (f": did you mean '{near[0]}'?" if near else f": there are {', '.join(RANGES)}")
    )


def range_of_records(some: Sequence[Mapping[str, Any]]) -> str:
    """The range that a few objects of a data set tell; "" where records have no cameras."""
    keys = ("elevation_deg", "fov_deg", "distance")
    if any(key not in some[0] for key in keys):
        return ""
    return identify_range(*(np.concatenate([record[key] for record in some]) for key in keys))


def identify_range(
    elevation_deg: Float[np.ndarray, " N"],
    fov_deg: Float[np.ndarray, " N"],
    distance: Float[np.ndarray, " N"],
) -> str:
    """The name of the range that cameras were drawn from, told by the cameras themselves.

    It is the narrowest that has all of them and that they fill to the half at least; where there is
    none, as of sets from elsewhere, the scales in numbers ("scale 1.32 to 1.61").
    """
    scale = distance * np.tan(np.radians(fov_deg) / 2)
    low, high = float(scale.min()), float(scale.max())
    fitting = []
    for name, known in RANGES.items():
        inside = all(
            a - _ROUNDING * max(1.0, abs(a)) <= values.min()
            and values.max() <= b + _ROUNDING * max(1.0, abs(b))
            for values, (a, b) in zip((elevation_deg, fov_deg, scale), known, strict=True)
        )
        width = known.scale[1] - known.scale[0]
        if inside and high - low >= width / 2:
            fitting.append((width, name))
    return min(fitting)[1] if fitting else f"scale {low:.2f} to {high:.2f}"
