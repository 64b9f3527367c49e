"""The history of a conversation: chat templates, prompts by ids, and pruning."""
