"""Cameras and surfaces: pure geometry, no learning."""
