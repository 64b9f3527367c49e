"""What a replay says of each turn by itself, and of the recording as a whole."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import tokentape as tt
from tokentape.commands.options import Store, stored_floor
from tokentape.replay import Rebuilt, TurnVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How a tape is to be replayed; `run` and `turns` are all where they are None.

    `run` is a place in the tape, the oldest first. `model` is empty for the recorded one, `floor`
    for the built-in one, or the one that is kept with the run where none is built in.
    """

    tape: str
    mode: str
    run: int | None = None
    turns: Sequence[int] | None = None
    model: str = ""
    floor: str = ""
    ignore: Sequence[str] = ()
    allow_drift: bool = False
    update: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOutcome:
    """`failure` is for people, and empty where the turn passes. Measures are None if not taken."""

    verdict: str
    failure: str = ""
    causes: str | None = None
    margin_max: float | None = None
    logprob_difference_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """`failure` is what fails the recording as a whole, and `summary` the same in a line."""

    verdict: str
    failure: str = ""
    summary: str = ""
    turns: dict[int, TurnOutcome] = field(default_factory=dict)

    @property
    def passes(self) -> bool:
        return not self.failure and not any(turn.failure for turn in self.turns.values())

    @property
    def first_failure(self) -> str:
        """A line; only for one that does not pass."""
        if self.failure:
            return self.summary
        turn, outcome = next(each for each in self.turns.items() if each[1].failure)
        return f"turn {turn} {outcome.verdict}" + (f", {outcome.causes}" if outcome.causes else "")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def failed(line: str) -> RunOutcome:
    return RunOutcome(verdict="", failure=line, summary=line)


def rebuilt(found: "Rebuilt") -> RunOutcome:
    turns = {turn.number: TurnOutcome(verdict="rebuilt") for turn in found.turns}
    return RunOutcome(verdict="rebuilt", turns=turns)


def replay_run(
    recording: tt.Recording, lm: "tt.LoadedModel", request: Request, store: Store
) -> RunOutcome:
    """Verify or regenerate the turns that were asked for. Raises as `tt.verify` does."""
    from tokentape.replay.checking.turns import what_lacks

    turns = [turn for turn in recording.turns() if turn.tokens]
    asked = [turn for turn in turns if request.turns is None or turn.number in request.turns]
    told: dict[int, TurnOutcome] = {}
    for turn in asked:
        why = what_lacks(turn)
        if why:
            # The others can be replayed all the same.
            told[turn.number] = TurnOutcome(verdict="", failure=why)
    replayable = [turn.number for turn in asked if turn.number not in told]
    if told and not replayable:
        return RunOutcome(verdict="", turns=told)
    given = tt.read_floor(Path(request.floor)) if request.floor else None
    replay = tt.verify if request.mode == "verify" else tt.regenerate
    report = replay(
        recording,
        lm,
        turns=replayable,
        floor=given or stored_floor(recording, store, lm),
        ignore=request.ignore,
    )
    found = _outcome(report, request)
    return replace(found, turns=dict(sorted((told | found.turns).items())))


def _outcome(report: "tt.Report", request: Request) -> RunOutcome:
    alone = {turn.turn: _alone(report, turn) for turn in report.turns}
    failing = [turn for turn, each in alone.items() if not _allows(request, each.verdict)]
    # Where turns fail they say so themselves, unless what is wrong is wrong with all of them.
    in_turns = [each.sentence for each in report.causes if each.turn is not None]
    whole = report.verdict is tt.Verdict.INCOMPARABLE or not set(report.altered) <= set(in_turns)
    if not failing:
        whole = whole or not _allows(request, report.verdict)
    turns = {}
    for turn in report.turns:
        each, fails = alone[turn.turn], turn.turn in failing
        causes = dict.fromkeys(cause.name for cause in each.causes) if whole or fails else ()
        turns[turn.turn] = TurnOutcome(
            verdict=str(report.verdict if whole else each.verdict),
            failure=_text(each) if fails else "",
            causes=", ".join(causes) or None,
            margin_max=turn.margin_max,
            logprob_difference_max=turn.logprob_difference_max,
        )
    return RunOutcome(
        verdict=str(report.verdict),
        failure=_text(report) if whole else "",
        summary=f"{report.verdict}: {report.reason}" if whole else "",
        turns=turns,
    )


def _allows(request: Request, verdict: "tt.Verdict") -> bool:
    return verdict.passes or (request.allow_drift and verdict is tt.Verdict.DRIFTED)


def _text(report: "tt.Report") -> str:
    """The verdict comes first: of a failure many tools show one line."""
    from tokentape.replay.reports.terminal import render

    return f"{report.verdict}: {report.reason}\n\n{render(report)}"


def _alone(report: "tt.Report", turn: "TurnVerdict") -> "tt.Report":
    """The report as if of this turn only.

    A cause that showed in an earlier turn goes on, but what contradicts itself does so in place.
    """
    causes = tuple(each for each in report.causes if each.turn is None or each.turn <= turn.turn)
    altered = tuple(
        each.sentence
        for each in causes
        if each.sentence in report.altered and each.turn in (None, turn.turn)
    )
    verdict = turn.verdict
    if altered and verdict.passes:
        verdict = tt.Verdict.DIVERGED
    return replace(
        report,
        verdict=verdict,
        reason=causes[0].sentence if causes else report.reason,
        causes=causes,
        turns=(turn,),
        divergences=tuple(each for each in report.divergences if each.turn == turn.turn),
        altered=altered,
        repro=re.sub(r"--turn \d+", f"--turn {turn.turn}", report.repro, count=1),
    )
