"""Training of the small model's own networks."""
