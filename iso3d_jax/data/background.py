"""Backgrounds: a picture without transparency to one with.

Alpha that is there is believed. A plain background (a studio shot, a catalogue picture) is removed
by its colour; any other is left to matting (matting.py), where that is installed.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

from iso3d_jax.core.errors import UserError
from iso3d_jax.data import matting

BACKGROUNDS = ("auto", "never", "always")
TRANSPARENT = 0.001  # of the pixels: alpha that hides less says nothing about the object
LARGEST = 2048  # longer side of pictures whose background is removed
ADVICE = (
    "remove the background (with rembg or any picture editor) and save it as a PNG with "
    "transparency"
)


class BackgroundError(UserError):
    """A background that its colour does not tell from the object."""


def remove_background(
    rgba: np.ndarray, how: str = "auto", *, name: str = "the picture",
    matting_model: str | None = None,
) -> np.ndarray:  # fmt: skip
    """Makes the background transparent.

    Args:
      rgba: uint8 [H, W, 4].
      how: 'auto' believes the picture's alpha, if it has any; else removes a plain background by
        its colour and any other by matting. 'never' leaves the picture as it is. 'always' removes
        it by matting, whatever it is; alpha that is there counts as well.
      name: what to call the picture in errors.
      matting_model: an ONNX file, in place of that of the extra `matting`.

    Returns:
      uint8 [h, w, 4]; the longer side is at most `LARGEST` where something was removed.

    Raises:
      UserError: no object can be told from the background, or matting is needed and not installed.
    """
    transparent = (rgba[..., 3] < 128).mean() >= TRANSPARENT
    if how == "never" or (how == "auto" and transparent):
        return rgba
    image = Image.fromarray(rgba)
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.BICUBIC)
    rgba = np.asarray(image)
    if how == "auto":
        try:
            return remove_plain_background(rgba[..., :3], name)
        except BackgroundError as error:
            try:
                model = matting.find_model(matting_model)
            except UserError as missing:
                raise UserError(f"{error}, or let it be cut out: {missing}") from None
    else:
        model = matting.find_model(matting_model)
    if not transparent:
        return matting.cut_out(rgba[..., :3], model, name)
    alpha = rgba[..., 3:].astype(np.float32) / 255
    white = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    found = matting.cut_out(white, model, name)
    found[..., 3] = np.minimum(found[..., 3], rgba[..., 3])
    return found


def remove_plain_background(rgb: np.ndarray, name: str = "the picture") -> np.ndarray:
    """Makes a plain background transparent.

    The background's colour is a plane over the picture (so soft gradients of studio light are
    allowed) fitted to the picture's rim. What is near that colour and connected to the rim is
    background. At the edge alpha is the pixel's distance from the background's colour relative to
    that of the object beside it, and the background's share is taken out of the colour. Holes
    that are not connected to the rim stay, and so do hard shadows.

    Args:
      rgb: uint8 [H, W, 3].
      name: what to call the picture in errors.

    Returns:
      uint8 [H, W, 4].

    Raises:
      BackgroundError: the background is busy, or there is nothing but background.
    """
    height, width, _ = rgb.shape
    pixels = rgb.astype(np.float32)
    rim = np.zeros((height, width), bool)
    margin = max(1, round(0.015 * min(height, width)))
    rim[:margin] = rim[-margin:] = rim[:, :margin] = rim[:, -margin:] = True
    background, tolerance, plain = _fit_background(pixels, rim)
    if plain < 0.6:
        raise BackgroundError(f"{name} has no transparency and a busy background: {ADVICE}")
    distance = np.abs(pixels - background).max(-1)
    labels: np.ndarray = np.asarray(ndimage.label(distance <= tolerance)[0])  # type: ignore[index]
    outside = np.isin(labels, np.setdiff1d(np.unique(labels[rim]), [0]))
    # JPEG's ringing: faint traces beside a strong edge are background as well.
    contrast = ndimage.maximum_filter(distance, size=9)
    near_edge = ndimage.binary_dilation(outside, iterations=3)
    outside |= near_edge & (distance < 0.2 * contrast)
    objects = _without_specks(~outside)
    share = objects.mean()
    if share < 0.002:
        raise BackgroundError(
            f"{name} shows one plain colour: no object can be told from it: {ADVICE}"
        )
    if share > 0.95:
        raise BackgroundError(f"the object in {name} cannot be told from its background: {ADVICE}")
    alpha = objects.astype(np.float32)
    # Pixels at the edge are mixtures of the object's colour and the background's.
    inner = np.asarray(ndimage.binary_erosion(objects, iterations=1, border_value=1), bool)
    band = ndimage.binary_dilation(objects, iterations=1) & ~inner
    contrast = ndimage.maximum_filter(distance * objects, size=5)
    noise = 0.25 * tolerance
    mixed = np.clip((distance - noise) / np.maximum(contrast - noise, 1.0), 0, 1)
    alpha = np.where(band, mixed, alpha)[..., None]
    colour = background + (pixels - background) / np.maximum(alpha, 0.05)
    rgba = np.concatenate([np.clip(colour, 0, 255), 255 * alpha], -1)
    return np.rint(rgba).astype(np.uint8)


def _fit_background(pixels: np.ndarray, rim: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Fits a plane of colour to the rim, leaving out what does not fit.

    Returns:
      The background's colour [H, W, 3], the distance up to which a colour belongs to it, and the
      share of the rim that does.
    """
    height, width = rim.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    basis = np.stack([np.ones_like(x), x, y], -1)
    rim_basis, rim_pixels = basis[rim], pixels[rim]
    # Where a corner of the object touches the rim the median still is the background's colour.
    fit = np.zeros((3, 3), np.float32)
    fit[0] = np.median(rim_pixels, 0)
    limit = 48.0
    for _ in range(4):
        near = np.abs(rim_pixels - rim_basis @ fit).max(-1) <= limit
        if near.sum() < 16:
            break
        fit = np.linalg.lstsq(rim_basis[near], rim_pixels[near], rcond=None)[0]
        limit = max(14.0, limit / 2)
    error = np.abs(rim_pixels - rim_basis @ fit).max(-1)
    near = error <= limit
    spread = float(np.percentile(error[near], 95)) if near.any() else limit
    tolerance = float(np.clip(2.5 * spread + 4, 8, 24))
    return basis @ fit, tolerance, float((error <= tolerance).mean())


def _without_specks(objects: np.ndarray) -> np.ndarray:
    """Drops pieces below 1% of the largest one: noise, dust, compression artefacts."""
    labels: np.ndarray = np.asarray(ndimage.label(objects, structure=np.ones((3, 3)))[0])  # type: ignore[index]
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large = sizes >= max(1, 0.01 * sizes.max())
    return np.take(large, labels) & objects
