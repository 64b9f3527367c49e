"""Runs copied to and from other forms."""
