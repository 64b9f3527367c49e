"""Equality of the engine and Hugging Face `generate`, over models, samplers and cache states."""
