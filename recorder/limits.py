"""Limits on the memory that the content of a small file may take."""

import json
import os
from typing import Any

from tokentape.recorder.errors import TokentapeError

SETTING = "TOKENTAPE_EXPANDED_BYTES_MAX"
"""The environment variable that replaces the limit of every file."""

EXPANDED_BYTES_MIN = 64 * 1024**2
"""What the content of any file may take, however small the file is."""
EXPANSION_MAX = 500
"""How many times its own size the content of a larger file may take.

Measured: a run of 300,000 equal tokens with the microseconds of a real clock takes 145 to 401,
by the release of pyarrow.
"""
VALUE_BYTES = 32
"""What one number or one element of a list takes in Python."""
TEXT_SHARE = 4
"""A single text may take one part in so many of the limit, since it is decoded and copied."""
_JSON_VALUES_MAX = 4 * 1024**2


def expanded_bytes_max(file_bytes: int) -> int:
    """Return how many bytes the content of a file of that size may take in memory.

    The environment variable `TOKENTAPE_EXPANDED_BYTES_MAX` replaces the limit, which is never below
    the size of the file. Raise TokentapeError if it is not a whole number of bytes.
    """
    given = os.environ.get(SETTING, "").strip()
    if not given:
        return max(EXPANDED_BYTES_MIN, EXPANSION_MAX * file_bytes)
    if not (given.isascii() and given.isdigit()):
        raise TokentapeError(f"{SETTING} must be a whole number of bytes, not {given!r}")
    return max(int(given), file_bytes)


def oversize(what: str, claimed_bytes: int, limit_bytes: int) -> str:
    """Return the fault of content that takes more than the limit; "" if it does not."""
    if claimed_bytes <= limit_bytes:
        return ""
    return (
        f"{what} takes {claimed_bytes:,} bytes, and {limit_bytes:,} are allowed: set {SETTING} to "
        "allow more, if you trust the file"
    )


class TooLargeError(ValueError):
    """A text has more than the limit; the message says how much, and how to allow it."""


def load_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raise TooLargeError if its values take too much memory.

    A megabyte of empty lists takes 30 megabytes of memory, so the values are counted first. Raise
    ValueError if the text is not JSON, and RecursionError if it is nested too deeply.
    """
    values_max = max(_JSON_VALUES_MAX, expanded_bytes_max(0) // VALUE_BYTES)
    if len(text) > values_max:
        counted = text.encode(errors="replace") if isinstance(text, str) else text
        values = sum(counted.count(mark) for mark in (b"{", b"[", b",", b":"))
        fault = oversize("its JSON", VALUE_BYTES * values, VALUE_BYTES * values_max)
        if fault:
            raise TooLargeError(fault)
    return json.loads(text)
