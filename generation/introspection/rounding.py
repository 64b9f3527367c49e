"""Numbers as short as they may be, for a reader who pays by the token."""

from typing import Any


def rounded(value: Any, digits: int) -> Any:
    """The same with every float to so many significant digits, however deep."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each, digits) for each in value]
    return value
