"""Forward hooks, the names of layers, and the positions that a forward computes."""
