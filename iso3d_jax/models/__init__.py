"""The three networks: multi-view UNet, KL autoencoder, CLIP vision tower (flax.nnx modules)."""
