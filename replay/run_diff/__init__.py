"""Comparison of two recorded runs, from their events alone."""
