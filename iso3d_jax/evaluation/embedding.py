"""How alike pictures are to the model's own image tower: the cosine of their embeddings."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from iso3d_jax import sampling
from iso3d_jax.weights.bundle import Model

EMBEDDED_TOGETHER = 256  # pictures of one program at most


def embed_all(
    model: Model, pictures: Float[np.ndarray, "N H W 3"], batch: int = EMBEDDED_TOGETHER
) -> Float[np.ndarray, "N D"]:
    """Unit embeddings of prepared pictures, so many at a time.

    The last ones are filled up to a power of two: few programs for whatever number of them, and no
    more than half of the work is for nothing.
    """
    parts = []
    for start in range(0, len(pictures), batch):
        chunk = pictures[start : start + batch]
        size = min(batch, 1 << (len(chunk) - 1).bit_length())
        white = np.ones((size - len(chunk), *chunk.shape[1:]), np.float32)
        padded = jnp.asarray(np.concatenate([chunk, white]))
        parts.append(np.asarray(sampling.embed_pictures(model, padded))[: len(chunk), 0])
    embedding = np.concatenate(parts)
    return embedding / np.linalg.norm(embedding, axis=-1, keepdims=True)


def embed_views(model: Model, views: Float[np.ndarray, "N V H W 3"]) -> Float[np.ndarray, "N V D"]:
    """Unit embeddings of objects' views."""
    flat = embed_all(model, np.asarray(views, np.float32).reshape(-1, *views.shape[2:]))
    return flat.reshape(*views.shape[:2], -1)


def similarity(a: Float[np.ndarray, "*n D"], b: Float[np.ndarray, "*n D"]):
    """Cosine of unit embeddings, in [-1, 1]."""
    return (np.asarray(a) * b).sum(-1)
