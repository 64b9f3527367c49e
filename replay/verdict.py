"""What a replay found: data first, so that a report, a test or a gate can be made of it."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """From best to worst. `incomparable` stands apart: the two sides are not the same thing."""

    EXACT = "exact"
    VERIFIED = "verified"
    NEAR_TIE = "near_tie"
    DRIFTED = "drifted"
    DIVERGED = "diverged"
    INCOMPARABLE = "incomparable"

    @property
    def passes(self) -> bool:
        return self in (Verdict.EXACT, Verdict.VERIFIED, Verdict.NEAR_TIE)


def worst(verdicts: list[Verdict]) -> Verdict:
    order = list(Verdict)
    return max(verdicts, key=order.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The noise that honest replays show, for one dtype. `version` names the measurement.

    `margin_eps`: a pick may differ where the two best differ by less, in raw logits.
    `logprob_floor`: log-probabilities may differ by this much, in nats.
    `margin_noise`: how much a margin moves on average, which predicts how many picks will flip.
    """

    version: str
    margin_eps: float
    logprob_floor: float
    margin_noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A token, what it spells and its raw log-probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One token on which the two sides disagree.

    `kind`: `token` (another is picked), `filtered` (the sampler would have filtered it),
    `near_tie` (another is picked, within the noise), `logprob` or `sampler` (the same is picked,
    with another raw or processed log-probability). `margin` is by how many raw logits the
    recorded token lost, None where it was filtered; `boundary_gap` is then how many it lacked.
    The differences are those of the recorded token's log-probabilities, in nats.
    """

    kind: str
    turn: int
    step: int
    position: int
    recorded: Candidate
    replayed: Candidate
    margin: float | None
    boundary_gap: float | None
    logprob_difference: float
    processed_difference: float | None
    text_before: str
    recorded_candidates: tuple[Candidate, ...]
    replayed_candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnVerdict:
    """A turn; the differences are the largest and the mean over its tokens, in nats.

    `generator_matches` says whether the seed leads to the recorded end state; None where nothing
    was drawn, or the turn was cut off. `stop_matches` says whether the settings stop the turn where
    and why it stopped; None where they do not decide it, or it was not asked.
    """

    turn: int
    verdict: Verdict
    tokens: int
    sampled: bool
    mismatches: int
    near_ties: int
    margin_max: float
    logprob_difference_max: float
    logprob_difference_mean: float
    processed_difference_max: float
    generator_matches: bool | None
    stop_matches: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDifference:
    """A fingerprint that is not the recorded one. Where it `forbids`, numbers cannot agree."""

    field: str
    recorded: str
    replayed: str
    forbids: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a verification or a regeneration."""

    replay: str
    run_id: str
    verdict: Verdict
    reason: str
    turns: tuple[TurnVerdict, ...]
    divergences: tuple[Divergence, ...]
    differences: tuple[FieldDifference, ...]
    altered: tuple[str, ...]
    floor: Floor | None
    predicted_flips: float
    duration_ms: float
    generation_ms: float
    repro: str

    @property
    def passes(self) -> bool:
        return self.verdict.passes

    @property
    def first(self) -> Divergence | None:
        return self.divergences[0] if self.divergences else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return asdict(self) | {"first": None if self.first is None else asdict(self.first)}
