"""The engine of training: loop, state, optimizer, sharding, checkpoints."""
