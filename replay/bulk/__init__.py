"""Verification of many runs of many stores, by one process or several."""
