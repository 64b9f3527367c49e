"""Outcomes of the replay of one run: for each turn by itself, and for the recording as a whole."""

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tokentape.recorder.short_forms import counted
from tokentape.replay.rebuild import Rebuilt
from tokentape.replay.reports.terminal import render
from tokentape.replay.results.report import Report, TurnVerdict
from tokentape.replay.results.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOutcome:
    """The outcome of one turn."""

    verdict: str
    """A `Verdict`, `rebuilt`, or empty for a turn that cannot be replayed."""
    failure: str = ""
    """A text for people; empty if the turn passes."""
    causes: str | None = None
    """Names of causes, separated by commas."""
    margin_max: float | None = None
    """Raw logits; None, as the field below, if not measured."""
    logprob_difference_max: float | None = None
    """Nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """The outcome of one run."""

    verdict: str
    failure: str = ""
    """A text for people about a failure of the recording as a whole, not of single turns."""
    summary: str = ""
    """The same failure in one line."""
    turns: dict[int, TurnOutcome] = field(default_factory=dict)

    @property
    def passes(self) -> bool:
        return not self.failure and not any(turn.failure for turn in self.turns.values())

    @property
    def first_failure(self) -> str:
        """One line about the first failure of an outcome that does not pass."""
        if self.failure:
            return self.summary
        turn, outcome = next(each for each in self.turns.items() if each[1].failure)
        return f"turn {turn} {outcome.verdict}" + (f", {outcome.causes}" if outcome.causes else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values for JSON."""
        return asdict(self)


def failed_outcome(line: str) -> RunOutcome:
    """Return the outcome of a run that cannot be replayed, for the reason in `line`."""
    return RunOutcome(verdict="", failure=line, summary=line)


def rebuilt_outcome(rebuilt: Rebuilt) -> RunOutcome:
    """Return the outcome of a run that was rebuilt."""
    turns = {turn.number: TurnOutcome(verdict="rebuilt") for turn in rebuilt.turns}
    return RunOutcome(verdict="rebuilt", turns=turns)


def report_outcome(report: Report, *, allow_drift: bool) -> RunOutcome:
    """Return the outcome of a run from its report.

    Failures are those of turns, unless the recording as a whole fails: its fingerprints differ, or
    it contradicts itself outside of its turns.
    """
    alone = {turn.turn: report_of_turn(report, turn) for turn in report.turns}
    failing = [
        turn
        for turn, each in alone.items()
        if not each.verdict.is_accepted(allow_drift=allow_drift)
    ]
    in_turns = [each.sentence for each in report.causes if each.turn is not None]
    whole = report.verdict is Verdict.INCOMPARABLE or not set(report.altered) <= set(in_turns)
    if not failing:
        whole = whole or not report.verdict.is_accepted(allow_drift=allow_drift)
    turns = {}
    for turn in report.turns:
        each, fails = alone[turn.turn], turn.turn in failing
        causes = dict.fromkeys(cause.name for cause in each.causes) if whole or fails else ()
        turns[turn.turn] = TurnOutcome(
            verdict=str(report.verdict if whole else each.verdict),
            failure=_failure_text(each) if fails else "",
            causes=", ".join(causes) or None,
            margin_max=turn.margin_max,
            logprob_difference_max=turn.logprob_difference_max,
        )
    return RunOutcome(
        verdict=str(report.verdict),
        failure=_failure_text(report) if whole else "",
        summary=_headline(report) if whole else "",
        turns=turns,
    )


def report_of_turn(report: Report, turn: TurnVerdict) -> Report:
    """Return the report limited to one turn.

    Causes that first show in an earlier turn apply to it as well; contradictions only if they are
    in this turn, or in none.
    """
    causes = tuple(each for each in report.causes if each.turn is None or each.turn <= turn.turn)
    altered = tuple(
        each.sentence
        for each in causes
        if each.sentence in report.altered and each.turn in (None, turn.turn)
    )
    verdict = turn.verdict
    if altered and verdict.passes:
        verdict = Verdict.DIVERGED
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


def _failure_text(report: Report) -> str:
    """Return the verdict, then the report: many tools show only the first line of a failure."""
    return f"{_headline(report)}\n\n{render(report)}"


def _headline(report: Report) -> str:
    """Return verdict and reason, whether tokens differ or only something else, and what to do."""
    return f"{report.verdict}: {report.reason} ({_what_differs(report)})"


def _what_differs(report: Report) -> str:
    if report.altered:
        return "the recording was altered: restore the file"
    tokens = sum(turn.mismatches for turn in report.turns)
    fields = [each.field for each in report.differences if each.forbids and not each.ignored]
    update = "--tape-update records it again"
    if tokens:
        return f"{counted(tokens, 'token')} {'differs' if tokens == 1 else 'differ'}: {update}"
    if fields:
        return f"{_fingerprints_differ(report, fields)}, {update}"
    if report.verdict is Verdict.DRIFTED:
        return f"no token differs, only numbers: --tape-allow-drift accepts that, {update}"
    return f"no token differs: {update}"


def _fingerprints_differ(report: Report, fields: list[str]) -> str:
    """Return what fingerprints that differ change, and the options that accept it."""
    options = [f"--tape-ignore {each}" for each in fields]
    named = f"the {'fingerprint' if len(fields) == 1 else 'fingerprints'} {', '.join(fields)}"
    what = f"no token differs, only {named}"
    if any(turn.verdict is Verdict.DRIFTED for turn in report.turns):
        options.append("--tape-allow-drift")
        drift = max(turn.logprob_difference_max for turn in report.turns)
        verb = "differs" if len(fields) == 1 else "differ"
        what = (
            f"no token differs, but log-probabilities drift, by up to {drift:.2g} nats, and "
            f"{named} {verb}"
        )
    if any(cause.changes_prompts for cause in report.causes):
        what += "; the recorded messages make other prompts now"
    return f"{what}: {' '.join(options)} accepts that"
