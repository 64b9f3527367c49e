"""Likely causes of a divergence."""
