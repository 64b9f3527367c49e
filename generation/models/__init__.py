"""Loading of models and tokenizers, their identity, and checks of memory."""
