"""What a model has before it: a conversation, what a template makes of it, and what leaves it."""
