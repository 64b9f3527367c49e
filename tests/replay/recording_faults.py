"""Random faults of a recording: prompts, settings, tokens, numbers, results of tools.

Each is recorded again with valid seals.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.replay.fault_case import SAMPLED_TURN, Case, record_case, rerecord
from benchmarks.replay.faults import other_result, tampered
from tokentape.recorder.events import (
    Event,
    MessageAdded,
    SystemPromptCached,
    TokenSampled,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)

Forge = Callable[[Case, random.Random], Case]


def prompt_ids(case: Case, draw: random.Random) -> Case:
    """Change one id of the system prompt or of the first message, but not the text."""
    kind: Any = draw.choice((SystemPromptCached, MessageAdded))
    return _first(case, kind, lambda event: _with_ids(event, draw))


def prompt_text(case: Case, draw: random.Random) -> Case:
    """Change a letter of the system prompt or of the first message, in its text and its ids."""
    kind: Any = draw.choice((SystemPromptCached, MessageAdded))

    def change(event: Any) -> Event:
        text = event.content
        index = draw.choice([index for index, letter in enumerate(text) if letter.isalpha()])
        other = text[:index] + ("q" if text[index] != "q" else "z") + text[index + 1 :]
        whole = event.text.replace(text, other)
        ids = tuple(case.lm.tokenizer.encode(whole, add_special_tokens=False))
        assert len(ids) == len(event.ids)
        changed: Event = dataclasses.replace(event, content=other, text=whole, ids=ids)
        if isinstance(changed, SystemPromptCached):
            changed = dataclasses.replace(changed, sha256=ids_sha256(ids))
        return changed

    return _first(case, kind, change)


def setting(case: Case, draw: random.Random) -> Case:
    """Change one setting of the sampler of the turn that has all of them."""
    name, value = draw.choice(
        (
            ("temperature", draw.choice((0.5, 0.75, 0.83, 1.2))),
            ("top_k", draw.choice((3, 20, 0))),
            ("top_p", draw.choice((0.5, 0.8, 0.9))),
            ("repetition_penalty", draw.choice((1.0, 1.05, 1.3))),
            ("min_p", 0.05),
        )
    )

    def change(event: Event) -> Event:
        if isinstance(event, TurnStarted) and event.turn == SAMPLED_TURN:
            return dataclasses.replace(event, sampling={**event.sampling, name: value})
        return event

    return rerecord(case, change)


def seed(case: Case, draw: random.Random) -> Case:
    """Change the seed of a sampled turn."""
    offset = draw.choice((-1, 1, 2, 1000))

    def change(event: Event) -> Event:
        if isinstance(event, TurnStarted) and event.turn == SAMPLED_TURN:
            return dataclasses.replace(event, seed=(event.seed or 0) + offset)
        return event

    return rerecord(case, change)


def lost_draw(case: Case, draw: random.Random) -> Case:
    """Record again, with one number of the random stream lost."""
    return record_case(case.lm, tokens=len(case.recording.turns()[0].tokens), lost_draw=True)


def token(case: Case, draw: random.Random) -> Case:
    """Replace a token by the next likely one."""
    return tampered(case)


def tool_result(case: Case, draw: random.Random) -> Case:
    """Change a digit of what the model read of a tool's result."""
    return rerecord(case, lambda event: other_result(event, case))


def logprob(case: Case, draw: random.Random) -> Case:
    """Change the recorded log-probability of one token."""
    name = draw.choice(("logprob", "logprob_processed"))
    where = (draw.randint(1, 4), draw.randrange(6))

    def change(event: Event) -> Event:
        if isinstance(event, TokenSampled) and (event.turn, event.step) == where:
            forged = torch.tensor(getattr(event, name) - 0.05).item()
            return dataclasses.replace(event, **{name: forged})
        return event

    return rerecord(case, change)


def end_state(case: Case, draw: random.Random) -> Case:
    """Change the recorded end state of the random generator."""

    def change(event: Event) -> Event:
        if isinstance(event, TurnFinished) and event.turn == SAMPLED_TURN:
            return dataclasses.replace(event, generator_sha256="0" * len(event.generator_sha256))
        return event

    return rerecord(case, change)


def _first(case: Case, kind: Any, change: Callable[[Any], Event]) -> Case:
    """Record again with the first event of a kind changed."""
    done = False

    def change_once(event: Event) -> Event:
        nonlocal done
        if not isinstance(event, kind) or done or not event.ids:
            return event
        done = True
        return change(event)

    return rerecord(case, change_once)


def _with_ids(event: Any, draw: random.Random) -> Event:
    index = draw.randrange(1, len(event.ids) - 1)
    other = 100 if event.ids[index] != 100 else 101
    ids = (*event.ids[:index], other, *event.ids[index + 1 :])
    changed: Event = dataclasses.replace(event, ids=ids)
    if isinstance(changed, SystemPromptCached):
        changed = dataclasses.replace(changed, sha256=ids_sha256(ids))
    return changed


FORGED: dict[str, tuple[Forge, frozenset[str]]] = {
    "ids of a prompt": (prompt_ids, frozenset({"prompt"})),
    "text and ids of a prompt": (prompt_text, frozenset()),
    "setting": (setting, frozenset({"sampler", "stop"})),
    "seed": (seed, frozenset({"seed"})),
    "lost draw": (lost_draw, frozenset({"draws"})),
    "token": (token, frozenset({"token", "stop", "text"})),
    "tool result": (tool_result, frozenset({"tool_result"})),
    "log-probability": (logprob, frozenset({"recording"})),
    "end state": (end_state, frozenset({"recording"})),
}
"""By name the forgery, and the causes that are right for it; `unknown` is right for each."""
