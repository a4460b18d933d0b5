"""The small model that ships: its networks, data, training and weights."""
