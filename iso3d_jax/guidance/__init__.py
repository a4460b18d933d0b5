"""What the denoiser tells the scene: score distillation, its timestep range, and regularizers."""
