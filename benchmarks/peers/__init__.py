"""Other engines that decode the same prompts: one sequence, and many at once."""
