"""Measurements of the page of a run in a browser."""
