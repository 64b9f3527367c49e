"""An event as it is kept: its place, its kind and version, and a body that is not decoded yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """What a store keeps and gives back, as old as it was written; see `Envelope`.

    `body` is canonical JSON; of a `TokenSampled` it is a mapping of its fields.
    """

    seq: int
    at_us: int
    kind: str
    version: int
    body: str | Mapping[str, Any]
    turn: int | None = None
    seal: str | None = None
