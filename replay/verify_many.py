"""Verify many recordings with one model: the same verdicts as one by one, in less time.

Short streams of several recordings share a forward, and the fingerprints of the model are computed
once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Unpack

import torch

from tokentape.generation import LoadedModel
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.recorder import Recording, TokentapeError
from tokentape.recorder.listed_keywords import lists_keywords
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.check_turns import CheckedTurn, check_branch, check_turns
from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR
from tokentape.replay.checking.packing import (
    Stream,
    pack_streams,
    packed_logits,
    packing_obstacle,
)
from tokentape.replay.checking.turns import branches, reply_rows, stream_of
from tokentape.replay.options import OPTION_DEFAULTS, CheckKeywords, CheckOptions, check_options
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.results.report import Report
from tokentape.replay.session import ReplaySession
from tokentape.replay.verify import verified_report

# Runs that are in memory at once. More find more streams of like length.
_WINDOW = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RunVerification:
    """The outcome of verifying one of many runs: a report, or the error that prevented it."""

    run_id: str
    report: Report | None = None
    error: Exception | None = None
    """What `verify` would have raised; None if there is a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """A run to verify, and how."""

    recording: Recording | LoadedRun
    options: CheckOptions = field(default_factory=CheckOptions)


@lists_keywords(OPTION_DEFAULTS)
def verify_many(
    recordings: Sequence[Recording | LoadedRun],
    lm: LoadedModel,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Unpack[CheckKeywords],
) -> list[RunVerification]:
    """Verify many runs of one model; return their outcomes in the order of `recordings`.

    The verdicts are those of `verify`, which takes the same options. In float32, short
    conversations of several runs share a forward, so that numbers may differ by rounding below the
    noise floor. Runs with interventions, and models in 16 bits, quantized, with experts or with a
    recurrent state are forwarded one by one. `progress` is called with the number of runs verified
    so far and their total.

    An error of one run does not end the others: it is in the outcome of that run.

    Example:
        >>> import tokentape as tt
        >>> found = tt.verify_many([store.recording(run_id)], lm)
        >>> [each.report.verdict.value for each in found]
        ['verified']
    """
    chosen = check_options("verify_many", options)
    requests = [VerifyRequest(recording=each, options=chosen) for each in recordings]
    found: list[RunVerification | None] = [None] * len(requests)
    for done, (index, outcome) in enumerate(verify_requests(requests, lm), 1):
        found[index] = outcome
        if progress is not None:
            progress(done, len(requests))
    return [each for each in found if each is not None]


def verify_requests(
    requests: Sequence[VerifyRequest], lm: LoadedModel
) -> Iterator[tuple[int, RunVerification]]:
    """Verify many runs; yield the index and the outcome of each, some of them early."""
    # Tools that run again may change the model.
    unchanged = all(each.options.tools is None for each in requests)
    for start in range(0, len(requests), _WINDOW):
        fingerprints = lm.identity.held() if unchanged else nullcontext()
        # A turn of another thread must not run between the forwards.
        with exclusive_use(lm.model), fingerprints:
            found = _verify_window(requests[start : start + _WINDOW], lm)
        yield from enumerate(found, start)


@dataclass(slots=True, eq=False)
class _Run:
    """A run that is being verified."""

    request: VerifyRequest
    session: ReplaySession | None = None
    branches: list[list[Turn]] = field(default_factory=list)
    checked: dict[int, list[CheckedTurn]] = field(default_factory=dict)
    """The checked turns of the branches that shared a forward, by index."""
    error: Exception | None = None
    duration_s: float = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time a step of the verification, and keep its error, which ends this run alone."""
        began = time.perf_counter()
        try:
            yield
        except Exception as error:
            self.error = self.error or error
        self.duration_s += time.perf_counter() - began


def _verify_window(requests: Sequence[VerifyRequest], lm: LoadedModel) -> list[RunVerification]:
    runs = [_Run(each) for each in requests]
    for run in runs:
        with run.step():
            session = ReplaySession.begin("verify", run.request.recording, lm, run.request.options)
            run.branches = list(branches(session.turns, lm, session.interventions))
            run.session = session
    if len(runs) > 1 and not packing_obstacle(lm.model):
        _check_packed(runs, lm)
    return [_outcome(run, lm) for run in runs]


def _check_packed(runs: Sequence[_Run], lm: LoadedModel) -> None:
    """Check the branches that share forwards. Those that cannot are left to `_outcome`."""
    places = [
        (run, number)
        for run in runs
        if run.session is not None and run.error is None
        for number, branch in enumerate(run.branches)
        if not run.session.interventions.of_turn(branch[-1])
    ]
    streams = [_stream(run.branches[number]) for run, number in places]
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    for group in pack_streams(streams, vocabulary):
        tokens = sum(len(streams[index].ids) for pack in group for index in pack.streams)
        began, checking_s = time.perf_counter(), 0.0
        try:
            for index, logits in packed_logits(lm.model, streams, group):
                run, number = places[index]
                before = run.duration_s
                with run.step():
                    run.checked[number] = _check(run, number, logits, lm)
                checking_s += run.duration_s - before
        except TokentapeError:
            # One by one, each run has the error that is its own.
            continue
        forward_s = time.perf_counter() - began - checking_s
        for pack in group:
            for index in pack.streams:
                places[index][0].duration_s += forward_s * len(streams[index].ids) / tokens


def _stream(branch: Sequence[Turn]) -> Stream:
    rows = reply_rows(branch)
    return Stream(ids=stream_of(branch)[: rows[-1] + 1], rows=tuple(rows))


def _check(run: _Run, number: int, logits: torch.Tensor, lm: LoadedModel) -> list[CheckedTurn]:
    assert run.session is not None
    found = check_branch(
        run.branches[number],
        iter([logits]),
        lm,
        run.session.floor or DEFAULT_FLOOR,
        run.session.options.processors,
    )
    return [each for each in found if isinstance(each, CheckedTurn)]


def _outcome(run: _Run, lm: LoadedModel) -> RunVerification:
    """Check the branches that were not checked yet, and return the report or the error."""
    report = None
    recording = run.request.recording
    session = run.session
    if session is not None and run.error is None:
        with run.step():
            checked = [
                each
                for number, branch in enumerate(run.branches)
                for each in run.checked.get(number) or _check_alone(session, branch, lm)
            ]
            report = verified_report(session, checked)
        if report is not None:
            report = replace(report, duration_us=round(run.duration_s * 1e6))
    return RunVerification(run_id=recording.run_id, report=report, error=run.error)


def _check_alone(
    session: ReplaySession, branch: Sequence[Turn], lm: LoadedModel
) -> list[CheckedTurn]:
    return check_turns(
        branch,
        lm,
        session.floor or DEFAULT_FLOOR,
        session.interventions,
        processors=session.options.processors,
    )
