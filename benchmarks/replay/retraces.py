"""A retrace of the demo's 20 turns in 16 bits: its time, and the changes that it finds."""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

import tokentape as tt
from benchmarks.replay.fault_case import Case, rerecord
from benchmarks.replay.timings import record_demo
from tokentape.recorder.events import Event, SystemPromptCached, TokenSampled, TurnStarted
from tokentape.store import DatabaseStore

_CHANGED_TURN = 4
"""A sampled turn; the turns before it must stay exact."""
_CHANGED_STEP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFound:
    """A single change of the recording or of the weights, and what the retrace says."""

    change: str
    turn: int
    """The turn that must be the first to differ."""
    found_turn: int | None
    """The first turn that is not exact."""
    verdict: str
    cause: str

    @property
    def is_right(self) -> bool:
        """Return whether the change fails the retrace at the right turn."""
        return self.found_turn == self.turn and self.verdict in ("diverged", "incomparable")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetraceFigures:
    """Generating and retracing the same run, in turns."""

    dtype: str
    tokens: int
    generated_s: tuple[float, ...]
    """Of each recording, from its first event to its last, with tools and fingerprints."""
    turns_s: tuple[float, ...]
    """Of each recording: its turns and the prefill of the system prompt alone."""
    retraced_s: tuple[float, ...]
    """Of each retrace, with fingerprints and the comparison."""
    verdicts: tuple[str, ...]
    changes: tuple[ChangeFound, ...]

    @property
    def ratio(self) -> float:
        """Return the median time of retracing, in times of generating."""
        return _median_ratio(self.retraced_s, self.generated_s)

    @property
    def turns_ratio(self) -> float:
        """Return the median time of retracing, in times of the turns alone."""
        return _median_ratio(self.retraced_s, self.turns_s)

    @property
    def passes(self) -> bool:
        """Return whether every retrace is exact and every change is found in its turn."""
        exact = all(each == "exact" for each in self.verdicts)
        return exact and all(each.is_right for each in self.changes)


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def measure_retraces(
    lm: tt.LoadedModel,
    *,
    rounds: int,
    record: Callable[[tt.LoadedModel, DatabaseStore], tt.Recording] = record_demo,
    tick: Callable[[], None] = lambda: None,
) -> RetraceFigures:
    """Record a run and retrace it, `rounds` times one after the other; then change it."""
    generated: list[float] = []
    in_turns: list[float] = []
    retraced: list[float] = []
    verdicts: list[str] = []
    lm.identity.described()
    case: Case | None = None
    tokens = 0
    for _ in range(rounds):
        store = tt.open_store("sqlite://")
        assert isinstance(store, DatabaseStore)
        began = time.perf_counter()
        case = Case(record(lm, store), lm, store)
        generated.append(time.perf_counter() - began)
        tick()
        report = tt.retrace(case.recording, lm)
        tick()
        tokens = sum(turn.tokens for turn in report.turns)
        system_us = sum(
            each.event.duration_us
            for each in case.recording.events()
            if isinstance(each.event, SystemPromptCached)
        )
        in_turns.append((report.generation_us + system_us) / 1e6)
        retraced.append(report.duration_us / 1e6)
        verdicts.append(report.verdict)
    assert case is not None
    changes = []
    for each in _changes(case):
        changes.append(each)
        tick()
    return RetraceFigures(
        dtype=str(lm.model.dtype).removeprefix("torch."),
        tokens=tokens,
        generated_s=tuple(generated),
        turns_s=tuple(in_turns),
        retraced_s=tuple(retraced),
        verdicts=tuple(verdicts),
        changes=tuple(changes),
    )


CHANGES = 4


def _changes(case: Case) -> Iterator[ChangeFound]:
    turns = list(range(1, _CHANGED_TURN + 1))
    model = copy.deepcopy(case.lm.model)
    with torch.no_grad():
        weight = model.model.layers[0].mlp.down_proj.weight
        largest = int(weight.abs().argmax())
        weight.view(torch.int16).view(-1)[largest] ^= 1
    changed = tt.LoadedModel(model, case.lm.tokenizer, case.lm.name)
    yield _found("one bit of one weight", 1, tt.retrace(case.recording, changed, turns=[1]))
    del model, changed
    for name, change in (
        ("one id of a reply", _other_id),
        ("seed + 1", _other_seed),
        ("temperature - 0.01", _other_temperature),
    ):
        recording = rerecord(case, change).recording
        yield _found(name, _CHANGED_TURN, tt.retrace(recording, case.lm, turns=turns))


def _found(change: str, turn: int, report: tt.Report) -> ChangeFound:
    differing = [
        each.turn for each in report.turns if each.differing_rows or each.generator_matches is False
    ]
    return ChangeFound(
        change=change,
        turn=turn,
        found_turn=differing[0] if differing else None,
        verdict=report.verdict,
        cause=report.causes[0].name if report.causes else "",
    )


def _other_id(event: Event) -> Event:
    here = isinstance(event, TokenSampled) and event.turn == _CHANGED_TURN
    if here and isinstance(event, TokenSampled) and event.step == _CHANGED_STEP:
        other = next(each for each in event.top_ids if each != event.token_id)
        return replace(event, token_id=other)
    return event


def _other_seed(event: Event) -> Event:
    if isinstance(event, TurnStarted) and event.turn == _CHANGED_TURN:
        return replace(event, seed=(event.seed or 0) + 1)
    return event


def _other_temperature(event: Event) -> Event:
    if isinstance(event, TurnStarted) and event.turn == _CHANGED_TURN:
        temperature = round(event.sampling["temperature"] - 0.01, 4)
        return replace(event, sampling={**event.sampling, "temperature": temperature})
    return event
