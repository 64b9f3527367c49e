"""Faults, injected one at a time into a recording or a model, as verify is to find them.

What is changed in a recording is recorded again, seals and all: only what the change itself shows
can give it away.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch

import tokentape as tt
from tokentape.generation.engine import sampling, token_sequence
from tokentape.recorder.events import (
    Event,
    MessageAdded,
    SystemPromptCached,
    TokenSampled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)
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
_TAMPERED_STEP, _LOST_STEP = 5, 3


@dataclass(frozen=True, slots=True)
class Case:
    """A recording and the model that it is replayed with."""

    recording: tt.Recording
    lm: tt.LoadedModel
    store: DatabaseStore


Inject = Callable[[Case], Case]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is done, and what must come of it.

    `fingerprint` names the one that differs: the verdict is `incomparable` then, and `verdicts` are
    those that the numbers give with that fingerprint ignored. `causes` are the right ones to be
    named first.
    """

    name: str
    inject: Inject
    verdicts: tuple[str, ...]
    causes: tuple[str, ...]
    fingerprint: str = ""


def record_case(lm: tt.LoadedModel, *, tokens: int, lost_draw: bool = False) -> Case:
    """Four turns: greedy, sampled with every filter, sampled behind a tool result, penalised."""
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
        with patch.object(token_sequence, "draw", _losing_one() if lost_draw else sampling.draw):
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


def recorded_again(case: Case, change: Callable[[Event], Event]) -> Case:
    """The recording with its events changed, sealed as if they had happened so."""
    store = tt.open_store("sqlite://")
    assert isinstance(store, DatabaseStore)
    recorder = tt.Recorder(store)
    for envelope in case.recording.events():
        event = envelope.event
        if isinstance(event, ToolReturned):
            recorder.put_blob(event.payload_sha256, case.store.blob(event.payload_sha256))
        recorder.record(change(event))
    return Case(store.recording(recorder.run_id), case.lm, store)


def _losing_one() -> Callable[..., sampling.Draw]:
    """Chooses one token of the turn without a draw."""
    calls = 0

    def draw(
        logits: torch.Tensor, scores: torch.Tensor, *, generator: torch.Generator | None
    ) -> sampling.Draw:
        nonlocal calls
        calls += 1
        lost = calls == _LOST_STEP + 1
        return sampling.draw(logits, scores, generator=None if lost else generator)

    return draw


def _weights(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Inject:
    """Every matrix of the model changed; a tied one once."""

    def inject(case: Case) -> Case:
        model = copy.deepcopy(case.lm.model)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2:
                    parameter.copy_(change(name, parameter))
        return replace(case, lm=tt.LoadedModel(model, case.lm.tokenizer, case.lm.name))

    return inject


def _noise(share: float) -> Inject:
    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        noise: torch.Tensor = torch.randn(weight.shape, generator=generator)
        return weight * (1.0 + share * noise)

    return _weights(change)


def _one_projection(name: str, weight: torch.Tensor) -> torch.Tensor:
    return weight * 1.01 if name.endswith("layers.1.self_attn.q_proj.weight") else weight


def _quantised(bits: int, group: int | None) -> Inject:
    """Rounded to so many bits, symmetrically, by row or by groups of a row."""

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        rows = weight.reshape(-1, group or weight.shape[-1])
        scale = rows.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
        rounded: torch.Tensor = ((rows / scale).round() * scale).reshape(weight.shape)
        return rounded

    return _weights(change)


def _events(change: Callable[[Event, Case], Event]) -> Inject:
    return lambda case: recorded_again(case, lambda event: change(event, case))


def _other_word(event: Event, case: Case) -> Event:
    if not isinstance(event, SystemPromptCached):
        return event
    text = event.text.replace("kind", "cold")
    ids = _encoded(case, text, len(event.ids))
    content = event.content.replace("kind", "cold")
    return replace(event, content=content, text=text, ids=ids, sha256=ids_sha256(ids))


def _other_result(event: Event, case: Case) -> Event:
    """Another number in what the tool had said, where the model reads it."""
    if not (isinstance(event, MessageAdded) and event.role == "tool"):
        return event
    numbers = json.loads(event.content)
    before = str(numbers["mean"])
    after = before[:-1] + ("1" if before[-1] != "1" else "2")
    text = event.text.replace(before, after)
    content = event.content.replace(before, after)
    return replace(event, content=content, text=text, ids=_encoded(case, text, len(event.ids)))


def _encoded(case: Case, text: str, count: int) -> tuple[int, ...]:
    ids = tuple(case.lm.tokenizer.encode(text, add_special_tokens=False))
    assert len(ids) == count, "a fault must not move what comes behind it"
    return ids


def _tampered(case: Case) -> Case:
    """One token of a reply replaced by the next likely one, and the text with it."""
    turn = case.recording.turns()[SAMPLED_TURN - 1]
    token = turn.tokens[_TAMPERED_STEP]
    other = next(each for each in token.top_ids[1:] if each != token.token_id)
    ids = list(turn.reply_ids)
    ids[_TAMPERED_STEP] = other

    def change(event: Event) -> Event:
        if isinstance(event, TokenSampled) and event.turn == SAMPLED_TURN:
            return replace(event, token_id=ids[event.step])
        if isinstance(event, TurnFinished) and event.turn == SAMPLED_TURN:
            return replace(event, text=str(case.lm.tokenizer.decode(ids)), stop_text="")
        return event

    return recorded_again(case, change)


def _setting(**changed: Any) -> Inject:
    def change(event: Event, case: Case) -> Event:
        if isinstance(event, TurnStarted) and event.turn == SAMPLED_TURN:
            return replace(event, sampling={**event.sampling, **changed})
        return event

    return _events(change)


def _next_seed(event: Event, case: Case) -> Event:
    if isinstance(event, TurnStarted) and event.turn == SAMPLED_TURN:
        return replace(event, seed=(event.seed or 0) + 1)
    return event


def _tokenizer(change: Callable[[Any], None]) -> Inject:
    def inject(case: Case) -> Case:
        tokenizer = copy.deepcopy(case.lm.tokenizer)
        change(tokenizer)
        return replace(case, lm=tt.LoadedModel(case.lm.model, tokenizer, case.lm.name))

    return inject


def _other_template(tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n\n")


def _lost_draw(case: Case) -> Case:
    tokens = len(case.recording.turns()[0].tokens)
    return record_case(case.lm, tokens=tokens, lost_draw=True)


_MOVED = ("drifted", "diverged")
FAULTS = (
    Fault(name="honest", inject=lambda case: case, verdicts=("verified",), causes=("",)),
    *(
        Fault(
            name=name,
            inject=inject,
            verdicts=_MOVED,
            causes=("weights",),
            fingerprint="weights",
        )
        for name, inject in (
            ("weights x (1 + 1e-4 noise)", _noise(1e-4)),
            ("weights x (1 + 1e-3 noise)", _noise(1e-3)),
            ("one q_proj x 1.01", _weights(_one_projection)),
            ("weights rounded to bfloat16", _weights(lambda name, w: w.bfloat16().float())),
            ("weights in int8", _quantised(8, None)),
            ("weights in int4, groups of 32", _quantised(4, 32)),
        )
    ),
    Fault(
        name="one word of the system prompt",
        inject=_events(_other_word),
        verdicts=_MOVED,
        causes=("prompt",),
    ),
    Fault(name="one token tampered", inject=_tampered, verdicts=("diverged",), causes=("token",)),
    Fault(name="seed + 1", inject=_events(_next_seed), verdicts=("diverged",), causes=("seed",)),
    Fault(name="one draw lost", inject=_lost_draw, verdicts=("diverged",), causes=("draws",)),
    *(
        Fault(
            name=f"{name.replace('_', ' ')} {SAMPLED[name]} to {value}",
            inject=_setting(**{name: value}),
            verdicts=("diverged",),
            causes=("sampler",),
        )
        for name, value in (
            ("temperature", 0.79),
            ("top_p", 0.9),
            ("top_k", 40),
            ("repetition_penalty", 1.09),
        )
    ),
    Fault(
        name="template changed",
        inject=_tokenizer(_other_template),
        verdicts=("verified",),
        causes=("template",),
        fingerprint="template",
    ),
    Fault(
        name="tokenizer changed",
        inject=_tokenizer(lambda tokenizer: tokenizer.add_tokens(["kind"])),
        verdicts=("verified",),
        causes=("tokenizer",),
        fingerprint="tokenizer",
    ),
    Fault(
        name="tool result changed",
        inject=_events(_other_result),
        verdicts=("diverged",),
        causes=("tool_result",),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What verify made of a fault; `numbers` is the verdict with the fingerprint ignored."""

    fault: Fault
    report: tt.Report
    numbers: tt.Report

    @property
    def cause(self) -> str:
        return self.report.causes[0].name if self.report.causes else ""

    @property
    def is_right(self) -> bool:
        """The right verdict, by fingerprint and by numbers, and the right cause first."""
        expected = ("incomparable",) if self.fault.fingerprint else self.fault.verdicts
        return (
            self.report.verdict in expected
            and self.numbers.verdict in self.fault.verdicts
            and self.cause in self.fault.causes
        )


def find(fault: Fault, case: Case) -> Found:
    """Inject a fault and verify what comes of it."""
    faulty = fault.inject(case)
    report = tt.verify(faulty.recording, faulty.lm)
    numbers = report
    if fault.fingerprint:
        numbers = tt.verify(faulty.recording, faulty.lm, ignore=[fault.fingerprint])
    return Found(fault=fault, report=report, numbers=numbers)
