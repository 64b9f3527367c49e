"""An event in its stored form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """An event as a store holds it: its place in the run, and a body that is not decoded.

    `seq`, `at_us`, `turn` and `seal` are as in `Envelope`.
    """

    seq: int
    at_us: int
    kind: str
    """The name of the event's class."""
    version: int
    """The version of the class that wrote the event; it may be older than today's."""
    body: str | Mapping[str, Any]
    """The event's fields as canonical JSON; for a `TokenSampled`, a mapping of its fields."""
    turn: int | None = None
    seal: str | None = None
