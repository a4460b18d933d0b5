"""From where the viewer of the page looks at a mesh as a camera of the scene does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

NARROWEST_DEG = 5.0  # a field of view that the viewer draws well


@dataclass(frozen=True)
class Orbit:
    """A camera as model-viewer names one, in glTF's axes: y is up and +z the front.

    Attributes:
      theta_deg: round the up axis from the front, counter-clockwise seen from above.
      phi_deg: from straight above.
      radius: from the point that it looks at; None for as far as the whole mesh needs.
      centre: that point; None for the middle of the mesh.
      fov_deg: None for the viewer's own.
    """

    theta_deg: float = 0.0
    phi_deg: float = 75.0
    radius: float | None = None
    centre: tuple[float, float, float] | None = None
    fov_deg: float | None = None

    @property
    def orbit(self) -> str:
        """The attribute camera-orbit."""
        radius = "auto" if self.radius is None else f"{self.radius:.4f}m"
        return f"{self.theta_deg:.2f}deg {self.phi_deg:.2f}deg {radius}"

    @property
    def target(self) -> str:
        """The attribute camera-target."""
        return "auto auto auto" if self.centre is None else _metres(self.centre)

    @property
    def field_of_view(self) -> str:
        """The attribute field-of-view."""
        return "auto" if self.fov_deg is None else f"{self.fov_deg:.2f}deg"


def _metres(point: tuple[float, float, float]) -> str:
    return " ".join(f"{x:.4f}m" for x in point)


def orbit_of(c2w: Float[np.ndarray, "4 4"], fov_deg: float) -> Orbit:
    """The orbit of a camera of the scene (OpenGL, +z is up, the front at +x).

    It looks at the point of its axis that is nearest to the middle of the scene. A camera that is
    rolled about its axis is shown upright, and a very narrow field of view from nearer by, at
    which the object is as large.
    """
    position, back = c2w[:3, 3], c2w[:3, 2] / np.linalg.norm(c2w[:3, 2])
    radius = max(float(position @ back), 1e-3)
    centre = position - radius * back
    if fov_deg < NARROWEST_DEG:
        radius *= math.tan(math.radians(fov_deg) / 2) / math.tan(math.radians(NARROWEST_DEG) / 2)
        fov_deg = NARROWEST_DEG
    x, y, z = (float(v) for v in back)
    cx, cy, cz = (float(v) for v in centre)
    return Orbit(
        math.degrees(math.atan2(y, x)), math.degrees(math.acos(max(-1.0, min(1.0, z)))), radius,
        (cy, cz, cx), float(fov_deg),
    )  # fmt: skip
