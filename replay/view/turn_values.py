"""Turns and rounds as the document has them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tokentape.replay.view.cache_values import cache_values, prefill_values
from tokentape.replay.view.json_values import json_value
from tokentape.replay.view.shown_settings import shown_settings
from tokentape.replay.view.token_columns import TokenColumns
from tokentape.replay.view.tool_calls import Payloads, call_values
from tokentape.replay.view.viewed_turns import ViewedRound, ViewedTurn
from tokentape.replay.view.vocabulary import Vocabulary


def turn_values(
    turns: Sequence[ViewedTurn],
    *,
    run_id: str,
    is_running: bool,
    columns: TokenColumns,
    vocabulary: Vocabulary,
    payloads: Payloads,
) -> list[dict[str, Any]]:
    """Return all turns of a run with their rounds; see docs/view-document.md."""
    values: list[dict[str, Any]] = []
    before: ViewedRound | None = None
    for each in turns:
        is_open = is_running and each is turns[-1]
        rounds: list[dict[str, Any]] = []
        for viewed in each.rounds:
            cache = cache_values(viewed, before, vocabulary)
            calls = list(call_values(viewed.exchanges, payloads))
            rounds.append(_round(viewed, len(rounds) + 1) | {"cache": cache, "calls": calls})
            before = viewed
        turn = _turn(each, run_id=run_id, is_open=is_open, columns=columns)
        values.append(turn | {"rounds": rounds})
    return values


def _turn(turn: ViewedTurn, *, run_id: str, is_open: bool, columns: TokenColumns) -> dict[str, Any]:
    last = turn.rounds[-1]
    owners = {each.run_id for each in turn.rounds}
    shared = sum(each.shared_tokens for each in turn.rounds)
    started = [each.turn.started for each in turn.rounds]
    rows = slice(turn.first_token, turn.end_token)
    open_status = "running" if is_open else "cut off"
    finished = last.turn.finished
    durations = [each.turn.finished.duration_us for each in turn.rounds if each.turn.finished]
    return {
        "turn": turn.number,
        "first_token": turn.first_token,
        "tokens": turn.end_token - turn.first_token,
        "status": "finished" if turn.has_finished else open_status,
        "shared_with": last.run_id if run_id not in owners else None,
        "shared_tokens": shared,
        "stop_reason": None if finished is None else str(finished.stop_reason),
        "duration_us": sum(durations) if durations else None,
        "seed": json_value(last.turn.started.seed),
        "settings": shown_settings(last.turn.started),
        "inside_model": _inside_model(turn),
        "unreplayable": list(dict.fromkeys(name for each in started for name in each.unreplayable)),
        "surprise_mean": _mean(-columns.columns["logprob"][rows]),
        "entropy_mean": _mean(columns.columns["entropy"][rows]),
    }


def _inside_model(turn: ViewedTurn) -> str:
    """Return the changes inside the model in any round, each once."""
    texts = [each.turn.inside_model.brief() for each in turn.rounds]
    return ", ".join(dict.fromkeys(text for text in texts if text))


def _mean(numbers: Any) -> float | None:
    return json_value(float(np.mean(numbers, dtype=np.float64))) if len(numbers) else None


def _round(viewed: ViewedRound, number: int) -> dict[str, Any]:
    turn, events = viewed.turn, viewed.events
    finished = turn.finished
    new_messages = sum(len(each.ids) for each in turn.messages)
    return {
        "round": number,
        "first_token": viewed.first_token,
        "tokens": len(turn.tokens),
        "prompt_tokens": len(turn.prompt_ids),
        "added_tokens": len(turn.prompt_ids) - max(0, turn.started.kept_tokens - new_messages),
        "parts": events.parts,
        "history_reason": turn.started.history_reason,
        **prefill_values(turn),
        "pruned": events.pruned,
        "text": turn.reply_text,
        "stop_reason": None if finished is None else str(finished.stop_reason),
        "stop_text": "" if finished is None else finished.stop_text,
    }
