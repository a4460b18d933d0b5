"""Training: state, steps, loop, checkpoints, sharding."""
