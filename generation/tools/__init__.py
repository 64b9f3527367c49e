"""Tools: their schemas, their arguments, running them and reading a model's calls."""
