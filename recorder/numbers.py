"""Numbers as recordings hold them: rounded once, before they are recorded, and exact afterwards.

Replays compare the log-probabilities of sampled tokens, so these stay float32. Other measures are
rounded to half precision (IEEE 754 binary16: 11 significant bits, a relative error of 1/2048 at
most), which takes half the storage.
"""

import struct

HALF_MAX = 65504.0
"""The largest number of half precision."""


def to_half(*numbers: float) -> tuple[float, ...]:
    """Return the nearest half-precision values; infinities become plus or minus `HALF_MAX`."""
    form = f"<{len(numbers)}e"
    try:
        return struct.unpack(form, struct.pack(form, *numbers))
    except OverflowError:
        pass
    held = (max(-HALF_MAX, min(HALF_MAX, number)) for number in numbers)
    return struct.unpack(form, struct.pack(form, *held))


def are_halves(numbers: tuple[float, ...]) -> bool:
    """Return whether half precision holds each number exactly."""
    return _holds("e", numbers)


def are_float32(numbers: tuple[float, ...]) -> bool:
    """Return whether float32 holds each number exactly."""
    return _holds("f", numbers)


def are_int32(numbers: tuple[int, ...]) -> bool:
    """Return whether each number is an integer of 32 signed bits."""
    return _holds("i", numbers)


def are_int64(numbers: tuple[int, ...]) -> bool:
    """Return whether each number is an integer of 64 signed bits."""
    return _holds("q", numbers)


def _holds(code: str, numbers: tuple[float, ...]) -> bool:
    form = f"<{len(numbers)}{code}"
    try:
        return struct.unpack(form, struct.pack(form, *numbers)) == numbers
    except (struct.error, OverflowError, TypeError):
        return False
