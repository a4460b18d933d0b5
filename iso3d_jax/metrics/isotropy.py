"""Isotropy: how a score of a view depends on its azimuth from the picture's side.

A model that copies the picture is good in front and bad behind; the paper's claim is that a prior
which sees an embedding alone is as good all round. Views are put into octants of azimuth, centred
at 0, 45, ..., 315 degrees. Three figures:

* `spread`: the standard deviation of the octants' mean scores, 0 if no side is better;
* `spread_by_chance`: what the spread would be on average if azimuth meant nothing, from shuffling
  the azimuths of each object's own views (finitely many views never agree exactly);
* `back_to_front`: the mean score of views 120 degrees or more away from the picture's side, over
  that of views at most 60 degrees away. 1 is isotropic.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

OCTANTS = 8
FRONT_DEG, BACK_DEG = 60.0, 120.0
SHUFFLES = 200


def angular_distance(a_deg, b_deg):
    """Degrees between azimuths, in [0, 180]."""
    return np.abs((np.asarray(a_deg) - b_deg + 180.0) % 360.0 - 180.0)


def octant(azimuth_deg) -> Int[np.ndarray, "..."]:
    """Which octant an azimuth is in: 0 is centred at 0 degrees, 1 at 45, and so on."""
    width = 360.0 / OCTANTS
    return ((np.asarray(azimuth_deg) + width / 2) % 360.0 // width).astype(int)


def octant_means(score: np.ndarray, azimuth_deg: np.ndarray) -> Float[np.ndarray, " 8"]:
    """Mean score of each octant, NaN where there is no view."""
    known = np.isfinite(score)
    index = octant(azimuth_deg)[known]
    count = np.bincount(index, minlength=OCTANTS)
    total = np.bincount(index, np.asarray(score)[known], OCTANTS)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def spread(score: np.ndarray, azimuth_deg: np.ndarray) -> float:
    """Standard deviation of the octants' means, over the octants that have views."""
    return float(np.nanstd(octant_means(score, azimuth_deg)))


def isotropy(
    score: Float[np.ndarray, "N V"], azimuth_deg: Float[np.ndarray, "N V"], seed: int = 0
) -> dict:
    """The figures above, with the octants' means and counts; None where views are missing.

    Args:
      score: of each view; NaN, not known, is left out.
      azimuth_deg: of each view, counted from the picture's.
      seed: of the shuffles.
    """
    score = np.asarray(score, np.float64)
    off = angular_distance(azimuth_deg, 0.0)
    known = np.isfinite(score)
    front, back = score[known & (off <= FRONT_DEG)], score[known & (off >= BACK_DEG)]
    means = octant_means(score, azimuth_deg)
    rng = np.random.default_rng(seed)
    chance = [spread(score, rng.permuted(azimuth_deg, axis=1)) for _ in range(SHUFFLES)]
    both = front.size and back.size and front.mean() != 0
    return {
        "octants": [None if np.isnan(m) else float(m) for m in means],
        "views": np.bincount(octant(azimuth_deg)[known], minlength=OCTANTS).tolist(),
        "spread": spread(score, azimuth_deg),
        "spread_by_chance": float(np.mean(chance)),
        "front": float(front.mean()) if front.size else None,
        "back": float(back.mean()) if back.size else None,
        "back_to_front": float(back.mean() / front.mean()) if both else None,
    }
