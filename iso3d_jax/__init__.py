"""Isotropic3D in JAX: one picture to consistent views and a 3D mesh.

    import iso3d_jax as iso3d

    pipe = iso3d.Pipeline.from_pretrained()              # the small model that ships here
    views = pipe.views("chair.png", seed=1)              # pictures with their cameras
    views.save("views.png")
    result = pipe.reconstruct(views)
    result.export("chair.glb")

Names are imported when they are first used, so that `import iso3d_jax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iso3d_jax.core.errors import UserError
    from iso3d_jax.data.pictures import load_picture, prepare_picture
    from iso3d_jax.data.posed_pictures import PosedPictures, load_posed
    from iso3d_jax.pipeline import Pipeline, reconstruct_posed
    from iso3d_jax.reconstruction.loop import Interrupted
    from iso3d_jax.reconstruction.result import Reconstruction
    from iso3d_jax.sampling import sample_views
    from iso3d_jax.views import Views
    from iso3d_jax.weights.bundle import load_model

__version__ = "0.1.0"

_HOME = {
    "Interrupted": "iso3d_jax.reconstruction.loop",
    "Pipeline": "iso3d_jax.pipeline",
    "PosedPictures": "iso3d_jax.data.posed_pictures",
    "Reconstruction": "iso3d_jax.reconstruction.result",
    "UserError": "iso3d_jax.core.errors",
    "Views": "iso3d_jax.views",
    "load_model": "iso3d_jax.weights.bundle",
    "load_picture": "iso3d_jax.data.pictures",
    "load_posed": "iso3d_jax.data.posed_pictures",
    "prepare_picture": "iso3d_jax.data.pictures",
    "reconstruct_posed": "iso3d_jax.pipeline",
    "sample_views": "iso3d_jax.sampling",
}

__all__ = [
    "Interrupted",
    "Pipeline",
    "PosedPictures",
    "Reconstruction",
    "UserError",
    "Views",
    "__version__",
    "load_model",
    "load_picture",
    "load_posed",
    "prepare_picture",
    "reconstruct_posed",
    "sample_views",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'iso3d_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
