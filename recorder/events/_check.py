"""Checks that events share when they are made, so that a wrong event cannot exist."""

import math
from collections.abc import Sequence


def check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def check_counts(**counts: int | None) -> None:
    """Each named count is None or at least zero."""
    for name, count in counts.items():
        if count is not None and count < 0:
            raise ValueError(f"{name} must not be negative: {count}")


def check_microseconds(duration_us: int) -> None:
    check(
        isinstance(duration_us, int) and 0 <= duration_us < 2**63,
        f"duration_us must be whole microseconds, not negative: {duration_us!r}",
    )


def check_seed(seed: int | None) -> None:
    check(seed is None or -(2**63) <= seed < 2**63, f"a seed must fit into 64 signed bits: {seed}")


def check_finite(**numbers: float) -> None:
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite: {number}")


def check_token_ids(**ids: Sequence[int]) -> None:
    for name, sequence in ids.items():
        if sequence and min(sequence) < 0:
            raise ValueError(f"{name} must hold token ids, which are not negative")


def check_ranges(**ranges: Sequence[tuple[int, int]]) -> None:
    """Each is half-open and holds something; they ascend and do not overlap."""
    for name, sequence in ranges.items():
        end_before = 0
        for start, end in sequence:
            if not end_before <= start < end:
                raise ValueError(f"{name} must ascend, hold something and not overlap: {sequence}")
            end_before = end
