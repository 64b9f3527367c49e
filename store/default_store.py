"""The store of a command and of `open_store` where none is named."""

DEFAULT_URL = "sqlite:///tokentape.db"
