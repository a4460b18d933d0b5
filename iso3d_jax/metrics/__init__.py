"""Pure scores of pictures and meshes, below everything; none reads a data set."""
