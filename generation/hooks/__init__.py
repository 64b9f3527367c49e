"""Names of a model's modules, and the positions that a forward computes."""
