"""Search for the likely causes of a divergence."""
