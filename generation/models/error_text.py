"""The text of other libraries' errors, shortened to one line."""

from tokentape.generation.errors import ModelError


def first_line(error: Exception) -> str:
    """Return the first line of an error, after its class unless the class says nothing."""
    text = str(error).strip().partition("\n")[0]
    known = isinstance(error, ModelError | OSError | ValueError | ImportError)
    return text if known and text else f"{type(error).__name__}: {text}"
