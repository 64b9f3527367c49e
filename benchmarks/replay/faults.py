"""Faults, injected one at a time into a recording or a model, that `verify` and `retrace` find.

A changed recording is recorded again with valid seals, so that no seal reveals the change.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

import tokentape as tt
from benchmarks.replay import model_faults
from benchmarks.replay.fault_case import SAMPLED, SAMPLED_TURN, Case, record_case, rerecord
from tokentape.recorder.events import (
    Event,
    MessageAdded,
    SystemPromptCached,
    TokenSampled,
    TurnFinished,
    TurnStarted,
    ids_sha256,
)

_TAMPERED_STEP = 5

Inject = Callable[[Case], Case]
"""Returns the case with the fault in its recording or its model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A change, and what a replay must report for it."""

    name: str
    inject: Inject
    verdicts: tuple[str, ...]
    """The acceptable verdicts of the numbers, with `fingerprint` ignored; `retrace` says `exact`
    where `verify` says `verified`."""
    causes: tuple[str, ...]
    """The acceptable causes in the first place."""
    fingerprint: str = ""
    """The fingerprint that differs; if any, the verdict with it must be `incomparable`."""


def _weights(change: Callable[[str, torch.Tensor], torch.Tensor]) -> Inject:
    """Return a fault that changes every matrix of the model, a tied matrix once."""

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
        return weight * (1.0 + share * noise.to(weight.device))

    return _weights(change)


def _one_projection(name: str, weight: torch.Tensor) -> torch.Tensor:
    return weight * 1.01 if name.endswith("layers.1.self_attn.q_proj.weight") else weight


def _quantised(bits: int, group: int | None) -> Inject:
    """Return a fault that rounds matrices to `bits` bits, symmetrically, by row or by `group`."""

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        # The smallest scale would be zero in float16.
        rows = weight.float().reshape(-1, group or weight.shape[-1])
        scale = rows.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / (2 ** (bits - 1) - 1)
        rounded: torch.Tensor = ((rows / scale).round() * scale).reshape(weight.shape)
        return rounded

    return _weights(change)


def _events(change: Callable[[Event, Case], Event]) -> Inject:
    return lambda case: rerecord(case, lambda event: change(event, case))


def _other_word(event: Event, case: Case) -> Event:
    if not isinstance(event, SystemPromptCached):
        return event
    text = event.text.replace("kind", "cold")
    ids = _encoded(case, text, len(event.ids))
    content = event.content.replace("kind", "cold")
    return replace(event, content=content, text=text, ids=ids, sha256=ids_sha256(ids))


def _other_id(event: Event, case: Case) -> Event:
    """Change an id of the system prompt and its sum, but not the text."""
    if not isinstance(event, SystemPromptCached):
        return event
    middle = len(event.ids) // 2
    others = [case.lm.tokenizer.encode(each, add_special_tokens=False)[-1] for each in "wv"]
    other = next(each for each in others if each != event.ids[middle])
    ids = (*event.ids[:middle], other, *event.ids[middle + 1 :])
    return replace(event, ids=ids, sha256=ids_sha256(ids))


def other_result(event: Event, case: Case) -> Event:
    """Change a digit of a number in the tool message that the model reads."""
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
    assert len(ids) == count, "a fault must not move the tokens after it"
    return ids


def tampered(case: Case) -> Case:
    """Replace one token of a reply by the next likely one, and the text accordingly.

    The text keeps its length where it can: later turns refer to a number of its characters.
    """
    turn = case.recording.turns()[SAMPLED_TURN - 1]
    token = turn.tokens[_TAMPERED_STEP]
    ids = list(turn.reply_ids)

    def lengthens(other: int) -> int:
        changed = [*ids[:_TAMPERED_STEP], other, *ids[_TAMPERED_STEP + 1 :]]
        decode = case.lm.tokenizer.decode
        return abs(len(str(decode(changed))) - len(str(decode(ids))))

    others = [each for each in token.top_ids[1:] if each != token.token_id]
    ids[_TAMPERED_STEP] = min(others, key=lengthens)

    def change(event: Event) -> Event:
        if isinstance(event, TokenSampled) and event.turn == SAMPLED_TURN:
            return replace(event, token_id=ids[event.step])
        if isinstance(event, TurnFinished) and event.turn == SAMPLED_TURN:
            return replace(event, text=str(case.lm.tokenizer.decode(ids)), stop_text="")
        return event

    return rerecord(case, change)


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
    *(
        Fault(
            name=name,
            inject=inject,
            verdicts=_MOVED,
            causes=(fingerprint,),
            fingerprint=fingerprint,
        )
        for name, inject, fingerprint in (
            ("rms_norm_eps", model_faults.other_config(model_faults.norm_eps), "config"),
            ("rope_theta x 1.001", model_faults.other_config(model_faults.rope_theta), "config"),
            ("hidden_act", model_faults.other_config(model_faults.hidden_act), "config"),
            (
                "sliding_window (a tiny Mistral)",
                model_faults.other_config(model_faults.sliding_window, "mistral"),
                "config",
            ),
            (
                "softcap of logits (a tiny Gemma 3)",
                model_faults.other_config(model_faults.softcap, "gemma3"),
                "config",
            ),
            ("attention scale", model_faults.other_model(model_faults.attention_scale), "config"),
            ("mask", model_faults.other_model(model_faults.mask), "model_code"),
            (
                "a head zeroed in code",
                model_faults.other_model(model_faults.zero_a_head),
                "model_code",
            ),
        )
    ),
    Fault(
        name="forged prefix folder",
        inject=model_faults.forged_prefix,
        verdicts=_MOVED,
        # In 16 bits the states may also have been computed in other chunks.
        causes=("prefix", "schedule"),
    ),
    Fault(
        name="one word of the system prompt",
        inject=_events(_other_word),
        verdicts=_MOVED,
        # Ids, text and sum are changed alike, with valid seals: nothing contradicts them.
        causes=("unknown",),
    ),
    Fault(
        name="one id of the system prompt",
        inject=_events(_other_id),
        verdicts=_MOVED,
        causes=("prompt",),
    ),
    Fault(name="one token tampered", inject=tampered, verdicts=("diverged",), causes=("token",)),
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
        inject=_events(other_result),
        verdicts=("diverged",),
        causes=("tool_result",),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultResult:
    """The report of a replay on a fault."""

    fault: Fault
    report: tt.Report
    numbers: tt.Report
    """The report with the fault's fingerprint ignored."""
    rounded_away: bool
    """Whether the dtype is too coarse for the change: no bit of the weights changed."""

    @property
    def cause(self) -> str:
        """Return the cause that is named first, or an empty text."""
        return self.report.causes[0].name if self.report.causes else ""

    @property
    def is_right(self) -> bool:
        """Return whether both verdicts and the first cause are acceptable."""
        passing = "exact" if self.report.replay == "retrace" else "verified"
        if self.rounded_away:
            return self.report.verdict == passing and not self.cause
        moved = [each if each != "verified" else passing for each in self.fault.verdicts]
        expected = ["incomparable"] if self.fault.fingerprint else moved
        return (
            self.report.verdict in expected
            and self.numbers.verdict in moved
            and self.cause in self.fault.causes
        )


def check_fault(
    fault: Fault, case: Case, replay: Callable[..., tt.Report] | None = None
) -> FaultResult:
    """Inject a fault and replay the result, with `tt.verify` if no other replay is given."""
    check = replay or tt.verify
    faulty = fault.inject(case)
    same_weights = faulty.lm.identity.weights_sha256 == case.lm.identity.weights_sha256
    report = check(faulty.recording, faulty.lm)
    numbers = report
    if fault.fingerprint:
        numbers = check(faulty.recording, faulty.lm, ignore=[fault.fingerprint])
    return FaultResult(
        fault=fault,
        report=report,
        numbers=numbers,
        rounded_away=fault.fingerprint == "weights" and same_weights,
    )
