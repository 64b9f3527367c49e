"""Checks that events share. Each raises ValueError, so that an invalid event cannot be made."""

import math
from collections.abc import Sequence
from enum import StrEnum


def check(holds: bool, message: str) -> None:
    """Raise ValueError with the message unless `holds`."""
    if not holds:
        raise ValueError(message)


def check_counts(**counts: int | None) -> None:
    """Check that each named count is None or at least zero."""
    for name, count in counts.items():
        if count is not None and count < 0:
            raise ValueError(f"{name} must not be negative: {count}")


def check_turn(turn: int) -> None:
    """Check that the number of a turn is at least one, and fits into 32 signed bits."""
    check(1 <= turn < 2**31, f"turns count from one, in 32 bits: {turn}")


def check_total(*, prompt_tokens: int, reused_tokens: int, computed_tokens: int) -> None:
    """Check that the tokens of a prompt are those reused plus those computed."""
    check(
        prompt_tokens == reused_tokens + computed_tokens,
        f"prompt_tokens {prompt_tokens} must be reused_tokens {reused_tokens} "
        f"plus computed_tokens {computed_tokens}",
    )


def check_duration(duration_us: int) -> None:
    """Check that a duration is an integer from 0 to 2**63 - 1."""
    check(
        isinstance(duration_us, int) and 0 <= duration_us < 2**63,
        f"duration_us must be whole microseconds, not negative: {duration_us!r}",
    )


def check_seed(seed: int | None) -> None:
    """Check that a seed is None or fits into 64 signed bits."""
    check(seed is None or -(2**63) <= seed < 2**63, f"a seed must fit into 64 signed bits: {seed}")


def check_finite(**numbers: float) -> None:
    """Check that no named number is NaN or infinite."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite: {number}")


def check_token_ids(**ids: Sequence[int]) -> None:
    """Check that every named sequence has only token ids: from 0 to 2**31 - 1."""
    for name, sequence in ids.items():
        if sequence and min(sequence) < 0:
            raise ValueError(f"{name} must hold token ids, which are not negative")
        if sequence and max(sequence) >= 2**31:
            raise ValueError(f"{name} must hold token ids, which have 31 bits")


def check_ranges(**ranges: Sequence[tuple[int, int]]) -> None:
    """Check that half-open ranges ascend, do not overlap and are not empty."""
    for name, sequence in ranges.items():
        end_before = 0
        for start, end in sequence:
            if not end_before <= start < end:
                raise ValueError(
                    f"{name} must ascend, and must neither overlap nor be empty: {sequence}"
                )
            end_before = end


def choose(event: object, **choices: type[StrEnum]) -> None:
    """Replace each named field of a frozen event by the member of the enumeration that it names.

    A decoded event has plain strings there. Raise ValueError if there is no such member.
    """
    for name, choice in choices.items():
        value = getattr(event, name)
        if type(value) is choice:
            continue
        try:
            object.__setattr__(event, name, choice(value))
        except ValueError:
            known = ", ".join(repr(str(each)) for each in choice)
            raise ValueError(f"{name} must be one of {known}: {value!r}") from None
