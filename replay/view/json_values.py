"""Plain JSON values of what a recording holds."""

import math
from collections.abc import Mapping
from typing import Any

HEAD = {"format": "tokentape-view", "version": 1}
"""The fields that every document begins with."""

SAFE_INTEGER = 2**53 - 1
"""The largest integer that a browser reads exactly from JSON."""


def json_value(value: Any) -> Any:
    """Return a value as JSON has it: tuples as lists, NaN and infinity as None.

    An integer beyond `SAFE_INTEGER`, such as the seed of a turn, is a text of its digits. Whatever
    JSON does not have is its `str`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value) if abs(value) <= SAFE_INTEGER else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): json_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(each) for each in value]
    return str(value)
