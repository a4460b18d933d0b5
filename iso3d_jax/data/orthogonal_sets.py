"""What every multi-view data set has in common: a view's camera, and views in orthogonal sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from iso3d_jax.core.errors import UserError

SET = 4  # views of an orthogonal set
CAMERA = ("azimuth_deg", "elevation_deg", "fov_deg", "distance")  # the columns of a view's camera


def check_sets(record: Mapping[str, Any], where: str) -> None:
    """Refuses records whose views are not in orthogonal sets of four, where they say it.

    Args:
      record: of `open_dataset`; its data set is all like it.
      where: the data set, for the message.

    Raises:
      UserError: they are in others.
    """
    if "set_index" not in record:  # a plain picture
        return
    found = np.asarray(record["set_index"])
    if not np.array_equal(found, np.arange(len(found)) // SET) or len(found) % SET:
        sizes = "/".join(map(str, sorted(set(np.unique(found, return_counts=True)[1].tolist()))))
        raise UserError(
            f"the data set {where} has views in sets of {sizes}, and only orthogonal sets of {SET} "
            f"can be used here; render it with --views_per_set {SET}"
        )
