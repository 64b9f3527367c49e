"""Old versions of events, made into today's when they are read.

An event that changes gets a new version and, here, a step from the one before: a function from the
fields of version n to those of version n + 1. What was recorded is never rewritten.
"""

from collections.abc import Callable, Mapping
from typing import Any

Fields = dict[str, Any]
Upcaster = Callable[[Fields], Fields]

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""Kind and version n to the step from n to n + 1."""


def validate_chain(
    versions: Mapping[str, int], upcasters: Mapping[tuple[str, int], Upcaster]
) -> None:
    """Raise TypeError unless every older version of every kind leads to today's, step by step.

    `versions` has today's version of each kind.
    """
    due = {(kind, n) for kind, today in versions.items() for n in range(1, today)}
    for kind, version in sorted(due - set(upcasters)):
        raise TypeError(f"no upcaster leads from {kind} version {version} to {version + 1}")
    for kind, version in sorted(set(upcasters) - due):
        raise TypeError(f"an upcaster of {kind} version {version} leads nowhere")


def upcast(
    kind: str, version: int, fields: Fields, upcasters: Mapping[tuple[str, int], Upcaster]
) -> Fields:
    """The fields as today's version of the kind has them."""
    while (kind, version) in upcasters:
        fields = upcasters[kind, version](fields)
        version += 1
    return fields
