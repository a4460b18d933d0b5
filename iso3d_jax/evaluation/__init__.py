"""How good a model is: views against the truth, baselines, and what the model pays attention to."""
