"""The result of an import."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The result of importing one run."""

    run_id: str
    events: int
    """Events of the run that the store has now."""
    last_seal: str | None
    """Its last seal in the store."""
    added: bool
    """Whether events were added."""
    added_events: int
    """How many of the events are new in the store: all, those after an older copy, or none."""
