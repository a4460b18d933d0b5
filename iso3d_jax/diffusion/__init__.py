"""The diffusion process: schedule, sampling and losses, as pure functions."""
