"""What a model folder says of its model that no weight tells: cameras, prediction, sampling.

`model_spec.ModelSpec` holds it.

Facts of model.json, beside the numbers of the networks:

==========================  ==================================================================
`camera_encoding`           What the network was trained with, and what score distillation and
                            the one-step table use: a name of `geometry/cameras.py`. Absent: it
                            never learned cameras (a 2-D base, whose camera MLP is silent).
`sampling_camera_encoding`  What views are sampled with, where that is another. The released
                            Isotropic3D file alone has it: its 2-D script lets the elevations
                            drift (`isotropic3d_sampling`). Absent: `camera_encoding`.
`base_camera_encoding`      Of a model trained here, where its base had been trained with another.
`camera_range`              From where a model trained here saw its objects: a name of
                            `data/camera_ranges.py`, several with commas, or scales in numbers.
`parameterization`          What the network predicts, `eps` or `v`.
`base_parameterization`     As of the cameras.
`guidance_scale`, `eta`,    How views are sampled. Absent: `sampling.DEFAULTS`.
`temperature`, `steps`,
`spacing`
==========================  ==================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from iso3d_jax.core.errors import UserError, shorten
from iso3d_jax.core.json_files import need
from iso3d_jax.diffusion.ddim import SPACINGS
from iso3d_jax.geometry.cameras import ENCODINGS

PICTURES = ("centred", "framed", "launch", "i2i")  # of data/pictures.py
TRUE_ANGLES = "mvdream"  # of what has learned no cameras yet
# What a network can be trained with.
TRAINED_WITH = ("mvdream", "isotropic3d", "harmonics", "harmonics_lens")
SAMPLING = ("guidance_scale", "eta", "temperature", "steps", "spacing")
CAMERAS = ("camera_encoding", "sampling_camera_encoding", "base_camera_encoding")


# Facts of model.json: their kind, the least and the most of numbers, or the names that are known.
_NUMBERS = {
    "resolution": (int, 8, 4096), "latent_size": (int, 1, 4096), "latent_channels": (int, 1, 4096),
    "context_dim": (int, 1, 1 << 16), "scale_factor": (float, 1e-6, 1e6),
    "guidance_scale": (float, 0, 1e4), "eta": (float, 0, 10), "temperature": (float, 0, 100),
    "steps": (int, 1, 1000),
}  # fmt: skip
_NAMES = {
    "parameterization": ("eps", "v"), "base_parameterization": ("eps", "v"),
    "picture": PICTURES, "spacing": SPACINGS, "name": (), "camera_range": (),
}  # fmt: skip
# Sizes of networks: beyond these a file is damaged or means harm. Of the others, 65,536.
_MOST = {
    "layers": 100,
    "num_res_blocks": 16,
    "transformer_depth": 16,
    "patch": 64,
    "image_size": 4096,
}


def check(facts: Mapping[str, Any], where: object) -> None:
    """Refuses facts of a model that are of another kind, or out of all bounds.

    Args:
      facts: model.json's, or what a converted file says of itself; `unet`, `vae` and `clip` are
        looked at where a network is made of them.
      where: the file.

    Raises:
      UserError: names the entry.
    """
    for key, (kind, least, most) in _NUMBERS.items():
        need(facts, key, kind, where, default=0, least=least, most=most)
    for key, names in _NAMES.items():
        value = need(facts, key, str, where, default="")
        if names and value and value not in names:
            raise UserError(
                f"{where}: its '{key}' is '{shorten(value, 60)}', none of {', '.join(names)}"
            )
        if shorten(value) != value:
            raise UserError(f"{where}: its '{key}' is no name")
    for key in CAMERAS:
        value = need(facts, key, str, where, default="")
        if value and value not in ENCODINGS:
            raise UserError(
                f"{where}: its '{key}' is '{shorten(value, 60)}', none of {', '.join(ENCODINGS)}"
            )
    for key in ("unet", "vae", "clip"):
        need(facts, key, dict, where, default={})


def check_numbers(kind: type, values: Mapping[str, Any], where: str) -> None:
    """Refuses a network's numbers that are no sizes; `kind` is their dataclass.

    Raises:
      UserError: names the entry.
    """
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        value, most = values[field.name], _MOST.get(field.name, 1 << 16)
        if isinstance(field.default, tuple):
            fits = isinstance(value, tuple | list) and 0 < len(value) <= 8
            fits = fits and all(type(n) is int and 0 < n <= 64 for n in value)
        elif isinstance(field.default, bool):
            fits = type(value) is bool
        elif isinstance(field.default, float):
            fits = type(value) in (int, float) and 0 < value <= 64
        else:
            fits = type(value) is int and 0 <= value <= most
        if not fits:
            raise UserError(
                f"{where}: its '{field.name}' is {shorten(value, 60)}, which is no size"
            )
