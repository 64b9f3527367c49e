"""Comparison of the changes inside the model during a turn of two runs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tokentape.recorder.events import InterventionRequested, InterventionWithdrawn
from tokentape.recorder.projections import InsideModel
from tokentape.recorder.projections.inside_model import ADAPTERS, HOOKS
from tokentape.replay.results.json_fields import UnequalField, unequal_fields
from tokentape.replay.run_diff.run_outline import TurnOutline


def compare_inside_model(
    a: TurnOutline, b: TurnOutline, *, with_positions: bool
) -> tuple[UnequalField, ...]:
    """Return the differences in interventions, adapters, foreign hooks and own processors.

    The positions that interventions acted on are compared only `with_positions`: after other
    prompts they differ because of these. Requests are compared where the interventions that acted
    are the same.
    """
    found = unequal_fields("", *(_acting(each, with_positions=with_positions) for each in (a, b)))
    return found or unequal_fields("", *(_requested(each.requests) for each in (a, b)))


def _acting(outlined: TurnOutline, *, with_positions: bool) -> dict[str, Any]:
    if outlined.turn is None:
        return {}
    inside = outlined.turn.inside_model
    found: dict[str, Any] = {name: getattr(inside, name) for name in (ADAPTERS, HOOKS)}
    found["unreplayable"] = outlined.turn.started.unreplayable
    return {"intervention": _interventions(inside, with_positions=with_positions)} | {
        name: value for name, value in found.items() if value
    }


def _interventions(inside: InsideModel, *, with_positions: bool) -> dict[str, Any]:
    """Return the fields of each intervention by its name; a second one of a name is numbered."""
    found: dict[str, Any] = {}
    for applied, ranges in inside.grouped():
        name, number = applied.name, 2
        while name in found:
            name, number = f"{applied.name} ({number})", number + 1
        found[name] = applied.definition()
        if with_positions:
            # One that acts to the end of the turn does so on replies of any length.
            found[name]["acts_on"] = [
                (start, None if end == inside.tokens else end) for start, end in ranges
            ]
    return found


def _requested(
    requests: Sequence[InterventionRequested | InterventionWithdrawn],
) -> dict[str, Any]:
    if not requests:
        return {}
    return {"requests": [{"event": type(each).__name__} | asdict(each) for each in requests]}
