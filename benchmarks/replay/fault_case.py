"""The recording that faults are injected into."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

import tokentape as tt
from tokentape.generation.engine import sampling, token_sequence
from tokentape.recorder.events import Event, InterventionApplied, ToolReturned
from tokentape.store import DatabaseStore

SYSTEM_PROMPT = "Be kind and brief."
SAMPLED_TURN, TOOL_TURN = 2, 3
SAMPLED: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.8,
    "top_k": 50,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
}
_LOST_STEP = 3


@dataclass(frozen=True, slots=True)
class Case:
    """A recording and the model that it is replayed with."""

    recording: tt.Recording
    lm: tt.LoadedModel
    store: DatabaseStore


def record_case(lm: tt.LoadedModel, *, tokens: int, lost_draw: bool = False) -> Case:
    """Record four turns: greedy, sampled with every filter, sampled with a tool result, penalised.

    If `lost_draw`, one token of the second turn is chosen without advancing the generator.
    """
    store = tt.open_store("sqlite://")
    assert isinstance(store, DatabaseStore)
    layer = next(iter(dict(lm.model.named_parameters())))
    look = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})
    with tt.Investigation(
        lm,
        store=store,
        name="case",
        system_prompt=SYSTEM_PROMPT,
        tools=tt.default_tools(lm),
        seed=7,
    ) as run:
        run.chat("What is a norm?", max_new_tokens=tokens, do_sample=False)
        with patch.object(
            token_sequence, "draw", _draw_losing_one() if lost_draw else sampling.draw
        ):
            run.chat("Tell me a story.", max_new_tokens=tokens, **SAMPLED)
        run.chat(
            "What of this?",
            tool_calls=[look],
            max_new_tokens=tokens,
            do_sample=True,
            temperature=0.8,
            top_p=0.9,
        )
        run.chat("And now?", max_new_tokens=tokens, do_sample=False, repetition_penalty=1.2)
    return Case(store.recording(run.run_id), lm, store)


def rerecord(case: Case, change: Callable[[Event], Event]) -> Case:
    """Record the events again after `change`, with valid seals."""
    store = tt.open_store("sqlite://")
    assert isinstance(store, DatabaseStore)
    recorder = tt.Recorder(store)
    for envelope in case.recording.events():
        event = envelope.event
        blob = _blob_of(event)
        if blob:
            recorder.put_blob(blob, case.store.blob(blob))
        recorder.record(change(event))
    return Case(store.recording(recorder.run_id), case.lm, store)


def _blob_of(event: Event) -> str | None:
    """Return the sha256 of the blob that an event refers to, or None."""
    match event:
        case ToolReturned():
            return event.payload_sha256
        case InterventionApplied():
            return event.tensor_sha256
    return None


def _draw_losing_one() -> Callable[..., sampling.Draw]:
    """Return a `draw` that chooses one token of a turn without advancing the generator."""
    calls = 0

    def draw(
        logits: torch.Tensor,
        scores: torch.Tensor,
        *,
        generator: torch.Generator | None,
        **chosen: torch.Tensor | None,
    ) -> sampling.Draw:
        nonlocal calls
        calls += 1
        lost = calls == _LOST_STEP + 1
        return sampling.draw(logits, scores, generator=None if lost else generator, **chosen)

    return draw
