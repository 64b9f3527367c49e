// The text of tokens in chunks.
