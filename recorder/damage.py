"""Errors of decoding, reported as damage of a file or of a run.

Bytes become values in one place of each reader, and `reporting_damage` surrounds that place:
whatever the decoding of damaged bytes raises there becomes an error of tokentape.
"""

import struct
import zlib
from collections.abc import Callable
from types import TracebackType

from tokentape.recorder.errors import TokentapeError
from tokentape.recorder.limits import TooLargeError

DECODING_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    struct.error,
    zlib.error,
)
"""What decoding damaged bytes raises; those of pyarrow are subclasses of some of them."""

_DESCRIBED_CHARACTERS = 300


class reporting_damage:
    """Context manager that raises an error of tokentape in place of one of `DECODING_ERRORS`.

    `make` returns that error for a description of the damage. The original is its cause. Errors of
    tokentape pass unchanged, except those of a class that `errors` names.
    """

    __slots__ = ("_errors", "_make")

    def __init__(
        self,
        make: Callable[[str], TokentapeError],
        errors: tuple[type[Exception], ...] = DECODING_ERRORS,
    ) -> None:
        self._make, self._errors = make, errors

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ours = isinstance(error, TokentapeError) and type(error) not in self._errors
        if isinstance(error, self._errors) and not ours:
            raise self._make(describe_damage(error)) from error


def describe_damage(error: BaseException) -> str:
    """Return an error as one line of limited length, with its class unless it is a ValueError."""
    text = str(error).strip().partition("\n")[0][:_DESCRIBED_CHARACTERS]
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    plain = type(error) in (ValueError, OSError) or isinstance(
        error, TooLargeError | TokentapeError
    )
    if plain and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
