"""What a model folder says of its model that no weight tells: cameras, prediction, sampling.

Facts of model.json, beside the numbers of the networks:

==========================  ==================================================================
`camera_encoding`           What the network was trained with, and what score distillation and
                            the one-step table use: a name of `geometry/cameras.py`. Absent: it
                            never learned cameras (a 2-D base, whose camera MLP is silent).
`sampling_camera_encoding`  What views are sampled with, where that is another. The released
                            Isotropic3D file alone has it: its 2-D script lets the elevations
                            drift (`isotropic3d_sampling`). Absent: `camera_encoding`.
`base_camera_encoding`      Of a model trained here, where its base had been trained with another.
`parameterization`          What the network predicts, `eps` or `v`.
`base_parameterization`     As of the cameras.
`guidance_scale`, `eta`,    How views are sampled. Absent: `sampling.DEFAULTS`.
`temperature`, `steps`,
`spacing`
==========================  ==================================================================
"""

from __future__ import annotations

from ml_collections import ConfigDict

from iso3d_jax.core.errors import UserError
from iso3d_jax.geometry.cameras import ENCODINGS

TRUE_ANGLES = "mvdream"  # of what has learned no cameras yet
TRAINED_WITH = ("mvdream", "isotropic3d", "harmonics")  # what a network can be trained with
SAMPLING = ("guidance_scale", "eta", "temperature", "steps", "spacing")
CAMERAS = ("camera_encoding", "sampling_camera_encoding", "base_camera_encoding")


def camera_encoding(config: ConfigDict) -> str:
    """What a model's network is told of cameras where it is used as it was trained.

    Raises:
      UserError: a name that is none.
    """
    return _known(config, "camera_encoding", TRAINED_WITH) or TRUE_ANGLES


def sampling_camera_encoding(config: ConfigDict) -> str:
    """What a model's network is told of cameras where views are sampled.

    Raises:
      UserError: a name that is none.
    """
    return _known(config, "sampling_camera_encoding", ENCODINGS) or camera_encoding(config)


def _known(config: ConfigDict, key: str, names: tuple[str, ...]) -> str:
    value = config.get(key) or ""
    if value and value not in names:
        raise UserError(f"the model's {key} is '{value}', which is none of {', '.join(names)}")
    return value
