"""Time, tokens forwarded and memory of generating, compared with Hugging Face `generate`."""
