"""How good a model is: views and meshes against the truth, baselines, reports."""
