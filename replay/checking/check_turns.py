"""Check of all turns: one teacher-forced forward for each branch of the conversation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from tokentape.generation import LoadedModel
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.divergence import describe_divergence
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.checking.teacher_forcing import CHUNK_TOKENS, teacher_forced_logits
from tokentape.replay.checking.token_checker import CheckedRows, CheckedToken, TokenChecker
from tokentape.replay.checking.turns import TurnProcessors, branches, reply_rows, stream_of
from tokentape.replay.results.report import Divergence, Floor, TurnVerdict
from tokentape.replay.results.verdict import DivergenceKind, Verdict

Progress = Callable[[int, int], None]
"""Called with the number of tokens checked so far and their total."""

# First rows of a turn that does not pass; the search for the cause tries other settings on them.
_ROWS_SAVED = 128


@dataclass(slots=True)
class CheckedTurn:
    """A turn, or a round of one, with its checked tokens."""

    turn: Turn
    tokens: list[CheckedToken] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)
    generator_matches: bool | None = None
    stop_matches: bool | None = None
    logits: torch.Tensor | None = None
    """Raw logits of the first rows, float32 (rows, vocab); None where the sampler agrees."""

    def add(self, checked: CheckedRows, lm: LoadedModel, temperature: float) -> None:
        """Add the next tokens, which were checked with the temperature of the turn."""
        self.tokens += checked.tokens
        self.divergences += [
            describe_divergence(checked, row, self.turn, lm, temperature)
            for row, each in enumerate(checked.tokens)
            if each.kind is not None
        ]
        self.save(checked.logits)

    def save(self, rows: torch.Tensor) -> None:
        """Keep the raw logits of the next tokens, float32 of shape (rows, vocab), up to a limit."""
        saved = 0 if self.logits is None else len(self.logits)
        if saved < _ROWS_SAVED:
            new = rows[: _ROWS_SAVED - saved].clone()
            self.logits = new if self.logits is None else torch.cat((self.logits, new))

    @property
    def differences(self) -> list[float]:
        """Differences of the raw log-probabilities, in nats, one entry a token."""
        return [token.logprob_difference for token in self.tokens]

    @property
    def wrong_steps(self) -> list[int]:
        """The steps of the round whose tokens differ by more than noise."""
        return [
            step
            for step, token in enumerate(self.tokens)
            if token.kind not in (None, DivergenceKind.NEAR_TIE)
        ]

    def drifting_steps(self, floor: Floor) -> list[int]:
        """Return the steps of the round whose raw numbers differ by more than noise.

        That is by more than the floor, or in a bit where a retrace on the same machine found one.
        """
        return [
            step
            for step, token in enumerate(self.tokens)
            if token.logprob_difference > floor.logprob_floor
            or token.kind is DivergenceKind.LOGPROB
        ]

    def is_drifting(self, floor: Floor) -> bool:
        """Return whether raw numbers of a token differ by more than noise."""
        return bool(self.drifting_steps(floor))

    def sampler_differs(self, floor: Floor) -> bool:
        """Return whether the model agrees with the recording and the sampler does not."""
        wrong = self.generator_matches is False or any(
            token.kind is not None
            and (token.kind.is_mismatch or token.kind is DivergenceKind.SAMPLER)
            for token in self.tokens
        )
        return wrong and not self.is_drifting(floor)


def check_turns(
    turns: Sequence[Turn],
    lm: LoadedModel,
    floor: Floor,
    interventions: Interventions,
    *,
    processors: TurnProcessors | None = None,
    progress: Progress | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> list[CheckedTurn]:
    """Check every token of the turns against one teacher-forced forward for each branch."""
    total, done = sum(len(turn.tokens) for turn in turns), 0
    checked: list[CheckedTurn] = []
    for branch in branches(turns, lm, interventions):
        blocks = teacher_forced_logits(
            lm.model, stream_of(branch), reply_rows(branch), chunk_tokens=chunk_tokens
        )
        with interventions.applied(lm.model, interventions.of_turn(branch[-1])):
            for each in check_branch(branch, blocks, lm, floor, processors):
                if isinstance(each, CheckedTurn):
                    checked.append(each)
                    continue
                done += each
                if progress is not None:
                    progress(done, total)
    return checked


def check_branch(
    branch: Sequence[Turn],
    blocks: Iterator[torch.Tensor],
    lm: LoadedModel,
    floor: Floor,
    processors: TurnProcessors | None,
) -> Iterator[int | CheckedTurn]:
    """Check the turns of a branch on blocks of its logits, float32 of shape (rows, vocab).

    Yield the number of tokens of each check, and each turn when all its tokens are checked.
    """
    checkers = [
        TokenChecker(
            turn,
            lm,
            floor,
            user_processors=partial(processors, turn) if processors else lambda: None,
        )
        for turn in branch
    ]
    for each in _check_blocks(checkers, blocks, lm):
        if isinstance(each, CheckedTurn) and not each.sampler_differs(floor):
            each.logits = None
        yield each


def _check_blocks(
    checkers: Sequence[TokenChecker], blocks: Iterator[torch.Tensor], lm: LoadedModel
) -> Iterator[int | CheckedTurn]:
    """Yield the number of tokens of each check, and each turn when all its tokens are checked."""
    rows_left = torch.empty(0)
    for checker in checkers:
        turn = CheckedTurn(checker.turn)
        while checker.rows_due:
            if not len(rows_left):
                rows_left = next(blocks)
            rows, rows_left = rows_left[: checker.rows_due], rows_left[checker.rows_due :]
            turn.add(checker.check(rows), lm, checker.temperature)
            yield len(rows)
        turn.generator_matches = checker.end_state_matches()
        turn.stop_matches = checker.stops_as_recorded()
        yield turn


def turn_verdict(checked: CheckedTurn) -> TurnVerdict:
    """Return the verdict on a turn: the worst of its tokens, its generator state and its stop."""
    kinds = [token.kind for token in checked.tokens]
    differences = checked.differences
    mismatches = sum(kind is not None and kind.is_mismatch for kind in kinds)
    contradicted = checked.generator_matches is False or checked.stop_matches is False
    if mismatches or contradicted:
        verdict = Verdict.DIVERGED
    elif DivergenceKind.LOGPROB in kinds:
        # Checked before the sampler: processed log-probabilities of a drifting model drift as well.
        verdict = Verdict.DRIFTED
    elif DivergenceKind.SAMPLER in kinds:
        verdict = Verdict.DIVERGED
    else:
        verdict = Verdict.NEAR_TIE if DivergenceKind.NEAR_TIE in kinds else Verdict.VERIFIED
    return TurnVerdict(
        turn=checked.turn.number,
        verdict=verdict,
        tokens=len(kinds),
        sampled=checked.turn.started.seed is not None,
        mismatches=mismatches,
        near_ties=kinds.count(DivergenceKind.NEAR_TIE),
        margin_max=max((token.margin or 0.0 for token in checked.tokens), default=0.0),
        logprob_difference_max=max(differences),
        logprob_difference_mean=sum(differences) / len(differences),
        processed_difference_max=max(token.processed_difference or 0.0 for token in checked.tokens),
        generator_matches=checked.generator_matches,
        stop_matches=checked.stop_matches,
        logprob_differences=tuple(differences),
        margins=tuple(token.margin for token in checked.tokens),
    )
