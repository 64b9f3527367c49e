"""The comparison of a retraced round with its recording: which rows differ, and how."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from transformers import LogitsProcessorList

from tokentape.generation import LoadedModel
from tokentape.generation.engine.sampling import Measures
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.check_turns import CheckedTurn, turn_verdict
from tokentape.replay.checking.token_checker import CheckedRows, CheckedToken, TokenChecker
from tokentape.replay.results.report import Floor, TurnVerdict
from tokentape.replay.results.row_difference import RowDifference
from tokentape.replay.results.verdict import DivergenceKind, Verdict
from tokentape.replay.retracing.row_difference import compare_row


@dataclass(frozen=True, slots=True)
class RetracedRound:
    """A round that was forwarded again along its schedule."""

    checked: CheckedTurn
    differences: tuple[RowDifference, ...]
    """The rows that differ, in order."""
    same_machine: bool
    """Whether the whole round was recorded on this machine."""

    @property
    def is_exact(self) -> bool:
        """Whether every recorded number is equal, and the round ends as recorded."""
        ends_equal = self.checked.generator_matches is not False
        return not self.differences and ends_equal and self.checked.stop_matches is not False

    @property
    def verdict(self) -> TurnVerdict:
        """The verdict on the round."""
        verdict = replace(turn_verdict(self.checked), differing_rows=len(self.differences))
        return replace(verdict, verdict=Verdict.EXACT) if self.is_exact else verdict


@dataclass(slots=True)
class RoundComparison:
    """Compares the rows of a round as they are computed.

    A row that differs is checked as `verify` checks it, for the tier and the cause. Until the first
    one, rows are only held, as many as one check takes.
    """

    turn: Turn
    lm: LoadedModel
    floor: Floor
    """Tells noise from faults where the round was recorded on another machine."""
    same_machine: bool
    """Whether it was recorded on this machine: then nothing but a fault makes a row differ."""
    user_processors: Callable[[], LogitsProcessorList | None]
    differences: list[RowDifference] = field(default_factory=list)
    _checked: CheckedTurn = field(init=False)
    _checker: TokenChecker = field(init=False)
    _rows: list[torch.Tensor] = field(default_factory=list)
    _found: list[RowDifference | None] = field(default_factory=list)
    _equal_rows: int = 0
    """Rows before the first difference, which the checker has not seen."""

    def __post_init__(self) -> None:
        self._checked = CheckedTurn(self.turn)
        self._checker = TokenChecker(
            self.turn, self.lm, self.floor, user_processors=self.user_processors
        )

    def add(self, logits: torch.Tensor, measures: Measures, picked_id: int) -> None:
        """Compare the next token; `logits` are its raw ones, float32 of shape (1, vocab)."""
        token = self.turn.tokens[len(self._checked.tokens) + len(self._rows)]
        difference = compare_row(token, measures, picked_id)
        self._rows.append(logits)
        self._found.append(difference)
        if difference is not None:
            self.differences.append(difference)
        if len(self._rows) == self._checker.rows_due:
            self._check()

    def finish(self, *, generator_matches: bool | None, stop_matches: bool | None) -> RetracedRound:
        """Return the round once all of its rows are added."""
        if self._rows:
            self._check()
        checked = self._checked
        checked.generator_matches, checked.stop_matches = generator_matches, stop_matches
        if not checked.sampler_differs(self.floor):
            checked.logits = None
        return RetracedRound(checked, tuple(self.differences), self.same_machine)

    def _check(self) -> None:
        rows, found = torch.cat(self._rows), self._found
        self._rows, self._found = [], []
        if not self.differences:
            self._equal_rows += len(rows)
            self._checked.tokens += [
                _equal(token.token_id)
                for token in self.turn.tokens[len(self._checked.tokens) :][: len(rows)]
            ]
            self._checked.save(rows)
            return
        self._checker.skip(self._equal_rows)
        self._equal_rows = 0
        checked = self._checker.check(rows)
        tokens = [
            _with_kind(token, difference, same_machine=self.same_machine)
            for token, difference in zip(checked.tokens, found, strict=True)
        ]
        self._checked.add(
            CheckedRows(checked.first, tokens, rows, checked.scores, checked.noised),
            self.lm,
            self._checker.temperature,
        )


def _equal(token_id: int) -> CheckedToken:
    """Return the result for a token whose numbers are equal."""
    return CheckedToken(
        kind=None,
        picked_id=token_id,
        margin=0.0,
        boundary_gap=None,
        pick_gap=0.0,
        logprob_difference=0.0,
        processed_difference=0.0,
    )


def _with_kind(
    token: CheckedToken, difference: RowDifference | None, *, same_machine: bool
) -> CheckedToken:
    """Return the checked token with the kind that the comparison of bits leads to."""
    if difference is None:
        return replace(token, kind=None)
    if not same_machine:
        return token
    if difference.picked_id != difference.token_id:
        filtered = DivergenceKind.FILTERED
        kind = filtered if token.kind is filtered else DivergenceKind.TOKEN
    else:
        kind = DivergenceKind.LOGPROB if difference.is_raw else DivergenceKind.SAMPLER
    return replace(token, kind=kind, picked_id=difference.picked_id)
