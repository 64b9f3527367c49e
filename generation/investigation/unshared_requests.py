"""Interventions that a forked turn had in the parent and does not have in the fork."""

import warnings

from tokentape.generation.errors import ForkWarning
from tokentape.recorder import Recording
from tokentape.recorder.events import InterventionRequested, InterventionWithdrawn


def warn_of_unshared_requests(parent: Recording, at_turn: int) -> None:
    """Warn of interventions requested or withdrawn between the last shared turn and `at_turn`.

    A fork shares events up to the end of a turn, and these were recorded after it.
    """
    requests = InterventionRequested | InterventionWithdrawn
    found = [
        each.event
        for each in parent.events()
        if each.turn == at_turn and isinstance(each.event, requests)
    ]
    if not found:
        return
    names = ", ".join(dict.fromkeys(repr(each.name) for each in found))
    warnings.warn(
        f"the parent requested or withdrew the interventions {names} right before turn {at_turn}: "
        "the fork does not; request them again in Python before the turn "
        "(Investigation.fork, then intervene)",
        ForkWarning,
        stacklevel=3,
    )
