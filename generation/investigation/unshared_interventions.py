"""Interventions that a forked turn had in the parent and does not have in the fork."""

import warnings
from collections.abc import Iterable

from tokentape.generation.errors import ForkWarning
from tokentape.recorder import Envelope
from tokentape.recorder.events import InterventionRequested, InterventionWithdrawn


def unshared_interventions(events: Iterable[Envelope], at_turn: int) -> tuple[str, ...]:
    """Return the names of interventions requested or withdrawn between two turns of the parent.

    These are the last shared turn and `at_turn`. A fork shares events up to the end of a turn.
    """
    found = (each.event for each in events if each.turn == at_turn)
    requests = InterventionRequested | InterventionWithdrawn
    return tuple(dict.fromkeys(each.name for each in found if isinstance(each, requests)))


def warn_of_unshared_interventions(unshared: Iterable[str], at_turn: int) -> None:
    """Warn of interventions that the fork lacks, if there are any."""
    names = ", ".join(map(repr, unshared))
    if not names:
        return
    warnings.warn(
        f"the parent requested or withdrew the interventions {names} right before turn {at_turn}: "
        "the fork does not; request them again in Python before the turn "
        "(Investigation.fork, then intervene)",
        ForkWarning,
        stacklevel=3,
    )
