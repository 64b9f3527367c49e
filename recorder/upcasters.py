"""Old versions of events, changed into today's when they are read.

A class of events that changes gets a new version and, here, a function from the fields of version
n to those of version n + 1. The recording itself is never rewritten.
"""

from collections.abc import Callable, Mapping
from typing import Any

Fields = dict[str, Any]
Upcaster = Callable[[Fields], Fields]

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""The step from version n to n + 1, by kind and n."""


def check_chain(versions: Mapping[str, int], upcasters: Mapping[tuple[str, int], Upcaster]) -> None:
    """Check that a step leads from every older version of every kind to the next.

    `versions` has today's version of each kind. Raise TypeError for a missing or useless step.
    """
    due = {(kind, n) for kind, today in versions.items() for n in range(1, today)}
    for kind, version in sorted(due - set(upcasters)):
        raise TypeError(f"no upcaster leads from {kind} version {version} to {version + 1}")
    for kind, version in sorted(set(upcasters) - due):
        raise TypeError(f"an upcaster of {kind} version {version} leads nowhere")


def upcast(
    kind: str, version: int, fields: Fields, upcasters: Mapping[tuple[str, int], Upcaster]
) -> Fields:
    """Return the fields of an old version as today's version of the kind has them."""
    while (kind, version) in upcasters:
        fields = upcasters[kind, version](fields)
        version += 1
    return fields
