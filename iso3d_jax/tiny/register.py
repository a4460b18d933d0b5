"""The small model's networks, under the entries of a config that tell them from the method's."""

from iso3d_jax.models.registry import PriorWeights, register
from iso3d_jax.tiny import spatial_prior
from iso3d_jax.tiny.dense_tower import DenseTower, DenseTowerConfig
from iso3d_jax.tiny.patch_autoencoder import PatchAutoencoder, PatchAutoencoderConfig

register("clip", ("hidden",), DenseTower, DenseTowerConfig)
register("vae", ("components",), PatchAutoencoder, PatchAutoencoderConfig)
register(
    "unet",
    ("layout_size", "layout_width", "shortcut"),
    spatial_prior.spatial_unet,
    spatial_prior.SpatialUNetConfig,
    PriorWeights(spatial_prior.IN_UNET, spatial_prior.load_drawing, spatial_prior.build_drawing),
)
