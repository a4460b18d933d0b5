"""Which objects are worth training on: named filters, each of which can be switched off.

What they go by is measured on the first four views and written into the manifest of every object
that was drawn, so that other bounds can be tried without drawing again; of what was refused the
manifest names the filter too. The bounds are of our choice.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from iso3d_jax.data import meshes
from iso3d_jax.data.names import check_names

LEAST_COVERED = 0.005  # of a view
COLOURED, LEAST_COLOURED = 16, 0.01  # levels between channels; share of the covered pixels
EDGE, FEWEST_EDGES = 4, 0.01  # levels between neighbours; share of the covered ones
NEAR, LEAST_TOGETHER = 1 / 16, 0.8  # of a view's side, a gap that is none; share of the covered
_MISSING = re.compile(r"no texture|no materials|is not there|no coordinates")
# What `--filters` may name, and what each leaves out.
FILTERS = {
    "shape": "flat as a rug or thin as a rod",
    "coverage": f"a view shows under {100 * LEAST_COVERED:g}% of it covered",
    "grey": f"under {100 * LEAST_COLOURED:g}% of it has a colour",
    "detail": f"under {100 * FEWEST_EDGES:g}% of neighbouring pixels differ",
    "pieces": f"under {100 * LEAST_TOGETHER:g}% of what views show of it hangs together",
    "textures": "a texture or material of it is missing",
    "duplicate": "it looks as another one does; told by data.join",
}
DEFAULT = ("shape", "coverage")
WINDOW = 8
ALIKE = 2  # bits of 64 in which two pictures may differ and be of the same object


class LowQuality(meshes.BadMesh):
    """An object that a filter leaves out.

    Attributes:
      filter: its name.
      measures: what was measured of the object.
    """

    def __init__(self, filter: str, reason: str, measures: dict[str, float] | None = None):
        super().__init__(reason)
        self.filter, self.measures = filter, measures or {}


def check_filters(names: Collection[str]) -> tuple[str, ...]:
    """Names of filters, in their order.

    Raises:
      UserError: there is none of such a name.
    """
    return check_names("filter", names, FILTERS)


def measure(images: UInt8[np.ndarray, "V H W 4"]) -> dict[str, float]:
    """What the filters go by, of views in straight alpha.

    Returns:
      `coverage`, the least share of a view that is covered, of all views; `coloured`, the share of
      covered pixels whose channels are more than `COLOURED` levels apart, `edges`, the share of
      covered neighbours in a row whose brightness is more than `EDGE` levels apart, and `together`,
      the share of the covered pixels that the largest piece has, all three of the first four views.
    """
    red, green, blue, alpha = (np.ascontiguousarray(images[:4, ..., k]) for k in range(4))
    covered = alpha > 127
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    coloured = (most - least)[covered] > COLOURED
    brightness = red.astype(np.int16) + green + blue
    steps = np.abs(np.diff(brightness, axis=-1))[covered[..., 1:] & covered[..., :-1]]
    found = {
        "coverage": np.count_nonzero(images[..., 3], axis=(1, 2)).min() / alpha[0].size,
        "coloured": coloured.mean() if coloured.size else 0.0,
        "edges": (steps > 3 * EDGE).mean() if steps.size else 0.0,
        "together": np.mean([_largest_piece(view) for view in covered]),
    }
    return {key: round(float(value), 5) for key, value in found.items()}


def _largest_piece(covered: Bool[np.ndarray, "H W"]) -> float:
    """The share of a view's covered pixels in its largest piece; gaps up to `NEAR` do not part."""
    if not covered.any():
        return 0.0
    reach = max(1, round(NEAR / 2 * len(covered)))
    grown = ndimage.maximum_filter(covered, 2 * reach + 1, mode="constant")
    pieces = np.zeros(covered.shape, np.int32)
    ndimage.label(grown, np.ones((3, 3)), output=pieces)
    sizes = np.bincount(pieces[covered])
    return sizes.max() / sizes.sum()


def judge(measures: dict[str, float], notes: Collection[str], filters: Collection[str]) -> None:
    """Says nothing of an object that is good enough.

    Args:
      measures: of `measure`.
      notes: what could not be drawn of it.
      filters: names of those that are asked.

    Raises:
      LowQuality: by the first filter that leaves it out.
    """
    percent = {key: f"{100 * value:.2f}%" for key, value in measures.items()}
    missing = next((note for note in notes if _MISSING.search(note)), None)
    reasons = {
        "coverage": f"hardly visible: {percent['coverage']} of a view is covered"
        if measures["coverage"] < LEAST_COVERED
        else None,
        "grey": f"without colours: {percent['coloured']} of it has one"
        if measures["coloured"] < LEAST_COLOURED
        else None,
        "detail": f"without detail: {percent['edges']} of neighbouring pixels differ"
        if measures["edges"] < FEWEST_EDGES
        else None,
        "pieces": f"in pieces: {percent['together']} of it hangs together"
        if measures["together"] < LEAST_TOGETHER
        else None,
        "textures": missing and f"incomplete: {missing}",
    }
    for name, reason in reasons.items():
        if reason and name in filters:
            raise LowQuality(name, reason, measures)


def hash_picture(image: UInt8[np.ndarray, "H W 4"]) -> int:
    """64 bits of how a picture looks on white: alike where it is shrunk, or a little brighter.

    36 bits say which of neighbouring sixths of a row is brighter, 28 where red and where blue
    outweigh green more than they do on the average.
    """
    alpha = image[..., 3:].astype(np.float64) / 255
    white = image[..., :3] * alpha + 255 * (1 - alpha)
    brightness = _shrink(white.mean(-1), 6, 7)
    colours = _shrink(white, 4, 4)
    # A step of half a level is none: plain ground is equal, not by chance brighter.
    bits = [(np.diff(brightness, axis=1) > 0.5).ravel()]
    for channel, count in ((0, 14), (2, 14)):
        apart = (colours[..., channel] - colours[..., 1]).ravel()[1:-1]
        bits.append(apart[:count] > max(apart.mean(), 0.5))
    return int.from_bytes(np.packbits(np.concatenate(bits)).tobytes(), "big")


def _shrink(picture: Float[np.ndarray, "H W ..."], h: int, w: int) -> Float[np.ndarray, "h w ..."]:
    """Means over h x w boxes of nearly equal sides."""
    rows = np.linspace(0, len(picture), h + 1).astype(int)
    columns = np.linspace(0, picture.shape[1], w + 1).astype(int)
    return np.stack([
        np.stack([
            picture[a:b, c:d].mean((0, 1))
            for c, d in zip(columns[:-1], columns[1:], strict=True)
        ])
        for a, b in zip(rows[:-1], rows[1:], strict=True)
    ])  # fmt: skip


class Duplicates(NamedTuple):
    """Objects that look as an earlier one does, and that one, by their positions."""

    later: np.ndarray
    earlier: np.ndarray


def find_duplicates(hashes: np.ndarray) -> Duplicates:
    """Which of many hashes are those of earlier ones, or differ in `ALIKE` bits at most.

    Of three thirds of a hash one must then be equal; of those that share a third each is compared
    with the `WINDOW` before it.

    Args:
      hashes: uint64 [N].
    """
    own = np.arange(len(hashes))
    earlier = own.copy()
    for shift, width in ((0, 21), (21, 21), (42, 22)):
        third = (hashes >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        order = np.argsort(third, kind="stable")
        for back in range(1, min(WINDOW, len(hashes) - 1) + 1):
            a, b = order[back:], order[:-back]
            alike = np.bitwise_count(hashes[a] ^ hashes[b]) <= ALIKE
            alike &= third[a] == third[b]
            np.minimum.at(earlier, a[alike], b[alike])
    while (earlier[earlier] != earlier).any():  # the first of a row of such, which is kept
        earlier = earlier[earlier]
    later = np.flatnonzero(earlier != own)
    return Duplicates(later, earlier[later])
