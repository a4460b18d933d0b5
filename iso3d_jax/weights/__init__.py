"""Models on disk: our own bundle, and the tiny pretrained one that ships with the package."""
