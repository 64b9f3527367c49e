"""Interventions and observed activations, placed on the tokens of a document."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from tokentape.recorder import Envelope
from tokentape.recorder.events import ActivationObserved, InterventionApplied
from tokentape.replay.view.json_values import json_value
from tokentape.replay.view.viewed_turns import ViewedRound

OBSERVATIONS_MAX = 20_000
"""Observations of one layer that a document has at most."""


def intervention_values(rounds: Sequence[ViewedRound]) -> list[dict[str, Any]]:
    """Return every intervention that acted, with the tokens and new prompt positions it acted on.

    Positions that an earlier round added are with that round.
    """
    tracks: list[tuple[InterventionApplied, dict[str, Any]]] = []
    for each in rounds:
        inside = each.turn.inside_model
        prompt = len(each.turn.prompt_ids)
        for applied, ranges in inside.grouped():
            track = _track_of(applied, tracks)
            for start, end in ranges:
                _add_range(track, each, (max(start, inside.first_new), end), prompt)
    return [track for _, track in tracks]


def _track_of(
    applied: InterventionApplied, tracks: list[tuple[InterventionApplied, dict[str, Any]]]
) -> dict[str, Any]:
    for other, track in tracks:
        if (other.name, other.definition()) == (applied.name, applied.definition()):
            return track
    track = {
        "name": applied.name,
        "rule": applied.describe_rule(),
        "kind": str(applied.kind),
        "layers": list(applied.layers),
        "spans": [],
        "prompt_spans": [],
    }
    tracks.append((applied, track))
    return track


def _add_range(
    track: dict[str, Any], viewed: ViewedRound, range_: tuple[int, int], prompt: int
) -> None:
    """Add a half-open range of positions: those of the prompt, and those of the reply as rows."""
    start, end = range_
    turn = viewed.turn
    if start < min(end, prompt):
        span = {"turn": turn.number, "start": start, "end": min(end, prompt)}
        track["prompt_spans"].append(span)
    first, last = max(start, prompt) - prompt, min(end - prompt, len(turn.tokens)) - 1
    if first <= last:
        rows = viewed.first_token + first, viewed.first_token + last
        track["spans"].append({"turn": turn.number, "first_token": rows[0], "last_token": rows[1]})


def activation_values(
    envelopes: Iterable[Envelope], rounds: Sequence[ViewedRound]
) -> tuple[list[dict[str, Any]], str]:
    """Return an entry for each observed layer, and a sentence where some are left out."""
    by_turn: dict[int, list[ViewedRound]] = {}
    for each in rounds:
        by_turn.setdefault(each.turn.number, []).append(each)
    observed = (each.event for each in envelopes if isinstance(each.event, ActivationObserved))
    entries = (
        _observation(event, layer, statistics, by_turn.get(event.turn, []))
        for event in observed
        for layer, statistics in event.statistics.items()
    )
    found = list(islice(entries, OBSERVATIONS_MAX))
    left_out = sum(1 for _ in entries)
    note = f"{left_out:,} observations of layers are left out of this page." if left_out else ""
    return found, note


def _observation(
    event: ActivationObserved, layer: str, statistics: Any, rounds: Sequence[ViewedRound]
) -> dict[str, Any]:
    return {
        "turn": event.turn,
        "name": str(event.source),
        "layer": layer,
        "first_token": _row_of(event.start, rounds),
        "statistics": json_value(statistics),
        "start": event.start,
        "end": event.end,
        "positions_covered": event.positions_covered,
    }


def _row_of(position: int, rounds: Sequence[ViewedRound]) -> int | None:
    """Return the row of the sampled token at a position of a turn; None within a prompt."""
    for each in rounds:
        index = position - len(each.turn.prompt_ids)
        if 0 <= index < len(each.turn.tokens):
            return each.first_token + index
    return None
