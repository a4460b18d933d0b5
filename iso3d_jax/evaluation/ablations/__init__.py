"""The paper's comparisons, side by side, and what a model pays attention to."""
