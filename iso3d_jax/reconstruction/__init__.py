"""From a denoiser and one picture to an optimised scene: state, compiled step and loop."""
