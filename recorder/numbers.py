"""Numbers as recordings hold them: rounded once, when they are recorded, and exact from then on.

Log-probabilities of sampled tokens are what replays compare: they stay float32. What is only looked
at is rounded to half precision (IEEE 754 binary16, 11 significant bits, a part in two thousand) and
takes half the room. Times are whole microseconds, which is what databases and `datetime` can hold.
"""

import struct

HALF_MAX = 65504.0


def to_half(*numbers: float) -> tuple[float, ...]:
    """Each number at the nearest half-precision value; beyond 65,504, minus infinity too, that."""
    form = f"<{len(numbers)}e"
    try:
        return struct.unpack(form, struct.pack(form, *numbers))
    except OverflowError:
        pass
    held = (max(-HALF_MAX, min(HALF_MAX, number)) for number in numbers)
    return struct.unpack(form, struct.pack(form, *held))


def are_halves(numbers: tuple[float, ...]) -> bool:
    return _hold("e", numbers)


def are_float32(numbers: tuple[float, ...]) -> bool:
    return _hold("f", numbers)


def are_int32(numbers: tuple[int, ...]) -> bool:
    return _hold("i", numbers)


def are_int64(numbers: tuple[int, ...]) -> bool:
    return _hold("q", numbers)


def _hold(code: str, numbers: tuple[float, ...]) -> bool:
    """Whether the C type holds each number as it is."""
    form = f"<{len(numbers)}{code}"
    try:
        return struct.unpack(form, struct.pack(form, *numbers)) == numbers
    except (struct.error, OverflowError, TypeError):
        return False
