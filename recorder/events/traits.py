"""The traits that every class of events declares, and the base class that they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar


class BelongsTo(Enum):
    """Which turn an event is filed under if it does not name one."""

    CURRENT_TURN = auto()
    """The turn in progress or, between turns, the next one."""
    NEXT_TURN = auto()
    """The next turn, also if the last one was cut off: the event is a part of its prompt."""
    RUN = auto()
    """No turn: the event begins, forks or ends its run, and a fork does not share it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTraits:
    """How the recorder, the projections and the stores treat the events of one class."""

    durable: bool = False
    """A loss of power cannot lose the event; any other event survives the death of the process."""
    sealed: bool = False
    """The event carries a seal over all events up to it."""
    ends_run: bool = False
    """No event follows, except `RunResumed`."""
    belongs_to: BelongsTo = BelongsTo.CURRENT_TURN
    """Which turn the event is filed under, if it has no field `turn`."""
    changes_summary: bool = False
    """`RunSummary` is folded from the event."""
    payload: str = ""
    """The field that holds the sha256 of a blob; empty if the class refers to none."""


class EventBase:
    """The base of every event: a frozen, slotted, keyword-only dataclass of plain values.

    An event is validated when it is made. It has no clock and no id: `Recorder` adds them.
    """

    __slots__ = ()

    version: ClassVar[int]
    """Counts from 1; the changes from one version to the next are in `recorder.upcasters`."""
    traits: ClassVar[EventTraits] = EventTraits()

    @classmethod
    def payload_sha256_of(cls, fields: Mapping[str, Any]) -> str:
        """Return the sha256 of the blob that a recorded event refers to; empty for none.

        `fields` are those of the recorded body. Raise KeyError if the payload's field is missing.
        """
        return str(fields[cls.traits.payload]) if cls.traits.payload else ""

    def describe(self) -> str | None:
        """Return the event as text for a transcript, or None if a transcript omits it."""
        return None
