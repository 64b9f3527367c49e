"""Pages and diagrams that are made from the code: `python -m docs.generate` writes them again."""
