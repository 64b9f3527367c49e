"""What the cache spared: of each round, and of the whole run."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tokentape.recorder import Envelope
from tokentape.recorder.events import SystemPromptCached
from tokentape.recorder.projections import PromptWork, Turn
from tokentape.replay.run_diff.turn_diff import compare_texts
from tokentape.replay.view.viewed_turns import ViewedRound
from tokentape.replay.view.vocabulary import Vocabulary

_CHARS_AROUND = 60


def cache_values(
    viewed: ViewedRound, before: ViewedRound | None, vocabulary: Vocabulary
) -> dict[str, Any] | None:
    """Return the cache decision of a round with the token that diverged; None without one.

    `before` is the round before it, whose sequence the cache holds in most cases.
    """
    decided = viewed.turn.cache
    if decided is None:
        return None
    values = asdict(decided)
    del values["turn"], values["key"]
    cached_id, prompt_id = values.pop("divergence_cached_id"), values.pop("divergence_prompt_id")
    return values | {
        "decision": str(decided.decision),
        "source": str(decided.source),
        "old_token": vocabulary.token(cached_id),
        "new_token": vocabulary.token(prompt_id),
        "divergence_text": _text_around(viewed, before, vocabulary),
    }


def _text_around(
    viewed: ViewedRound, before: ViewedRound | None, vocabulary: Vocabulary
) -> str | None:
    """Return the prompt's text around the token that diverged; None where it cannot be found."""
    decided = viewed.turn.cache
    if decided is None or decided.divergence_index is None:
        return None
    char = _char_of_token(viewed, decided.divergence_index, vocabulary)
    if char is None and before is not None and decided.divergence_prompt_id is not None:
        text = vocabulary.text(decided.divergence_prompt_id)
        char = None if not text else _char_of_difference(viewed.turn, before.turn, text)
    if char is None:
        return None
    return viewed.turn.prompt_text[max(0, char - _CHARS_AROUND) : char + _CHARS_AROUND]


def _char_of_token(viewed: ViewedRound, index: int, vocabulary: Vocabulary) -> int | None:
    """Return where a token begins in the prompt's text.

    Events say where messages begin. From there the texts of the tokens lead to the place, if all of
    them are recorded and the prompt has them in that order.
    """
    turn, place = viewed.turn, viewed.events.divergence
    if place is None:
        return None
    token, char = place
    for token_id in turn.prompt_ids[token:index]:
        text = vocabulary.text(token_id)
        if text is None or not turn.prompt_text.startswith(text, char):
            return None
        char += len(text)
    return char


def _char_of_difference(turn: Turn, before: Turn, token: str) -> int | None:
    """Return where the token begins at which the prompt leaves the text of the round before it.

    None if it does not leave it with this token: then the cache held another sequence.
    """
    finished = before.finished
    reply = "" if finished is None else finished.text + finished.stop_text
    found = compare_texts(turn.prompt_text, before.prompt_text + reply)
    if found is None:
        return None
    starts = range(found.index, max(-1, found.index - len(token)), -1)
    return next((each for each in starts if turn.prompt_text.startswith(token, each)), None)


def prefill_values(turn: Turn) -> dict[str, Any]:
    """Return the prefill of a round and its memory.

    Without reuse the turn holds the keys and values of the same prompt, so the bytes are equal.
    """
    prefill = turn.prefill
    if prefill is None:
        return {"prefill": None, "kv_bytes": None, "peak_bytes": None, "kv_bytes_without": None}
    return {
        "prefill": {
            "tokens": sum(prefill.chunks),
            "chunks": list(prefill.chunks),
            "duration_us": prefill.duration_us,
        },
        "kv_bytes": prefill.kv_bytes,
        "peak_bytes": prefill.peak_bytes,
        "kv_bytes_without": prefill.kv_bytes,
    }


def cache_savings(
    run_id: str, rounds: Sequence[ViewedRound], envelopes: Iterable[Envelope]
) -> dict[str, Any]:
    """Return what the cache spared in the rounds that the run itself recorded."""
    system = [
        each.event
        for each in envelopes
        if each.run_id == run_id and isinstance(each.event, SystemPromptCached)
    ]
    own = [each.turn for each in rounds if each.run_id == run_id and each.turn.cache is not None]
    work = PromptWork.of(system, (each.cache for each in own if each.cache is not None))
    timed = [(each.computed_tokens, each.duration_us) for each in system if each.computed_tokens]
    timed += [(sum(p.chunks), p.duration_us) for p in (t.prefill for t in own) if p is not None]
    tokens, duration_us = (sum(column) for column in zip(*timed, strict=True)) if timed else (0, 0)
    return {
        "system_tokens": work.system_tokens,
        "prompt_tokens_computed": work.computed_tokens,
        "prompt_tokens_without_reuse": work.prompt_tokens,
        "times_fewer": work.times_fewer,
        "prefill_us": duration_us if timed else None,
        "prefill_us_without_reuse": round(work.prompt_tokens * duration_us / tokens)
        if tokens
        else None,
        "estimates": _ESTIMATES if timed else [],
    }


_ESTIMATES = [
    "Prompt tokens without reuse: the sum of the lengths of all prompts.",
    "Prefill time without reuse: these tokens times the measured mean time of a computed token. "
    "A long prompt takes more time per token than a short one, so the true time is longer.",
    "Memory without reuse: a turn holds the keys and values of its whole prompt with and without "
    "reuse. Without it, none are held between turns.",
]
