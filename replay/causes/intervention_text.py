"""Interventions as text for the sentence of a cause."""

from collections.abc import Sequence

from tokentape.recorder.projections import ActiveRange


def interventions_text(ranges: Sequence[ActiveRange]) -> str:
    """Return the name, kind and layers of each intervention, once."""
    named = (
        f"intervention {each.name!r} ({each.applied.kind} in {', '.join(each.applied.layers)})"
        for each in ranges
    )
    return ", ".join(dict.fromkeys(named))
