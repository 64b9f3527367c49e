"""Judging all turns: one forward a branch, the rows of its turns in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from tokentape.generation import LoadedModel
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.divergence import describe_divergence
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.checking.teacher_forcing import CHUNK_TOKENS, teacher_forced_logits
from tokentape.replay.checking.token_checker import Judgement, TokenChecker
from tokentape.replay.checking.turns import OwnProcessors, branches, reply_rows, stream_of
from tokentape.replay.verdict import Divergence, Floor, TurnVerdict, Verdict

Progress = Callable[[int, int], None]
"""Called with the tokens judged so far and their total."""

MISMATCHES = ("token", "filtered")
# Of a turn that does not pass, to try out on them what explains it.
_ROWS_KEPT = 128


@dataclass(slots=True)
class CheckedTurn:
    """A turn with a judgement for each token.

    `logits` are the raw ones of its first rows, float32 of shape (rows, vocab), and only there
    where the sampler is at fault.
    """

    turn: Turn
    tokens: list[Judgement] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)
    generator_matches: bool | None = None
    stop_matches: bool | None = None
    logits: torch.Tensor | None = None

    def add(self, judge: TokenChecker, rows: torch.Tensor, lm: LoadedModel) -> None:
        """Judge the next tokens on their raw logits."""
        judged = judge.judge(rows)
        self.tokens += judged.judgements
        self.divergences += [
            describe_divergence(judged, row, self.turn, lm, judge.temperature)
            for row, each in enumerate(judged.judgements)
            if each.kind
        ]
        kept = 0 if self.logits is None else len(self.logits)
        if kept < _ROWS_KEPT:
            new = rows[: _ROWS_KEPT - kept].clone()
            self.logits = new if self.logits is None else torch.cat((self.logits, new))

    @property
    def differences(self) -> list[float]:
        return [token.logprob_difference for token in self.tokens]

    def is_drifting(self, floor: Floor) -> bool:
        """Whether any log-probability is off by more than the floor."""
        return max(self.differences, default=0.0) > floor.logprob_floor

    def is_off_the_sampler(self, floor: Floor) -> bool:
        """Whether the model agrees and the sampler does not."""
        kinds = {token.kind for token in self.tokens}
        wrong = bool(kinds & {"sampler", *MISMATCHES}) or self.generator_matches is False
        return wrong and not self.is_drifting(floor)


def check_turns(
    turns: Sequence[Turn],
    lm: LoadedModel,
    floor: Floor,
    interventions: Interventions,
    *,
    processors: OwnProcessors | None = None,
    progress: Progress | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> list[CheckedTurn]:
    """Every token of the turns against one teacher-forced forward a branch."""
    total, done = sum(len(turn.tokens) for turn in turns), 0
    judged: list[CheckedTurn] = []
    for branch in branches(turns, lm, interventions):
        blocks = teacher_forced_logits(
            lm.model, stream_of(branch), reply_rows(branch), chunk_tokens=chunk_tokens
        )
        judges = [
            TokenChecker(
                turn, lm, floor, own=partial(processors, turn) if processors else lambda: None
            )
            for turn in branch
        ]
        with interventions.acting(lm.model, interventions.of_turn(branch[-1])):
            for each in _judge_blocks(judges, blocks, lm):
                if isinstance(each, CheckedTurn):
                    if not each.is_off_the_sampler(floor):
                        each.logits = None
                    judged.append(each)
                    continue
                done += each
                if progress is not None:
                    progress(done, total)
    return judged


def _judge_blocks(
    judges: Sequence[TokenChecker], blocks: Iterator[torch.Tensor], lm: LoadedModel
) -> Iterator[int | CheckedTurn]:
    """How many tokens were judged, and each turn as soon as all of it is."""
    left = torch.empty(0)
    for judge in judges:
        turn = CheckedTurn(judge.turn)
        while judge.due:
            if not len(left):
                left = next(blocks)
            rows, left = left[: judge.due], left[judge.due :]
            turn.add(judge, rows, lm)
            yield len(rows)
        turn.generator_matches = judge.end_state_matches()
        turn.stop_matches = judge.stops_as_recorded()
        yield turn


def turn_verdict(judged: CheckedTurn) -> TurnVerdict:
    """The numbers of a turn, and the worst that its tokens make of it."""
    kinds = [token.kind for token in judged.tokens]
    differences = judged.differences
    mismatches = sum(kind in MISMATCHES for kind in kinds)
    contradicted = judged.generator_matches is False or judged.stop_matches is False
    if mismatches or contradicted:
        verdict = Verdict.DIVERGED
    elif "logprob" in kinds:
        # What the processors make of a drifting model drifts as well.
        verdict = Verdict.DRIFTED
    elif "sampler" in kinds:
        verdict = Verdict.DIVERGED
    else:
        verdict = Verdict.NEAR_TIE if "near_tie" in kinds else Verdict.VERIFIED
    return TurnVerdict(
        turn=judged.turn.number,
        verdict=verdict,
        tokens=len(kinds),
        sampled=judged.turn.started.seed is not None,
        mismatches=mismatches,
        near_ties=kinds.count("near_tie"),
        margin_max=max((token.margin or 0.0 for token in judged.tokens), default=0.0),
        logprob_difference_max=max(differences),
        logprob_difference_mean=sum(differences) / len(differences),
        processed_difference_max=max(token.processed_difference or 0.0 for token in judged.tokens),
        generator_matches=judged.generator_matches,
        stop_matches=judged.stop_matches,
        logprob_differences=tuple(differences),
        margins=tuple(token.margin for token in judged.tokens),
    )
