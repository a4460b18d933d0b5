"""What is trained: stages 1 and 2 of the paper, and what they are trained on."""
