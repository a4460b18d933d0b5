"""Pictures, meshes and multi-view data sets: reading, rendering, batches."""
