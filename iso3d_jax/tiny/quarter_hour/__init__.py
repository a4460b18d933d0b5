"""A larger small model in ten minutes of one GPU, from one file of data packed on a CPU."""
