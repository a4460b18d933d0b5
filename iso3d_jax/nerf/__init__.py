"""The scene: a hash grid with two small networks, volume rendering and shading; pure functions."""
