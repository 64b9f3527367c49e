"""Loading models and tokenizers, and whether they fit into memory."""
