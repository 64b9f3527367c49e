"""Differences between two recorded runs, without a model."""
