"""From a density to a file that Blender opens: isosurface, texture, mesh files. Host side."""
