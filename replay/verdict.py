"""What a replay found: data first, so that a report, a test or a gate can be made of it."""

from collections.abc import Sequence
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
    `logprob_noise`: how much a log-probability moves on average.
    `measured_on` says in words what was measured, over `tokens` positions.
    """

    version: str
    dtype: str
    margin_eps: float
    logprob_floor: float
    margin_noise: float
    logprob_noise: float
    tokens: int
    measured_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A token, what it spells and its raw log-probability.

    Of a replayed one also `score`, by which the pick is made (processed logits plus noise, in raw
    logits), None where a processor took the token out, which `filtered_by` names then.
    """

    token_id: int
    text: str
    logprob: float
    score: float | None = None
    filtered_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One token on which the two sides disagree.

    `kind`: `token` (another is picked), `filtered` (the sampler would have filtered it),
    `near_tie` (another is picked, within the noise), `logprob` or `sampler` (the same is picked,
    with another raw or processed log-probability). `margin` is by how many raw logits the
    recorded token lost, None where it was filtered; `boundary_gap` is then how many it lacked.
    The differences are those of the recorded token's log-probabilities, in nats. The texts are what
    was recorded around the token.
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
    text_after: str
    recorded_candidates: tuple[Candidate, ...]
    replayed_candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnVerdict:
    """A turn; the differences are the largest and the mean over its tokens, in nats.

    `generator_matches` says whether the seed leads to the recorded end state; None where nothing
    was drawn, or the turn was cut off. `stop_matches` says whether the settings stop the turn where
    and why it stopped; None where they do not decide it, or it was not asked.
    `logprob_differences` and `margins` have an entry a token: nats, and raw logits by which the
    recorded token lost, None where it was filtered.
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
    logprob_differences: tuple[float, ...] = ()
    margins: tuple[float | None, ...] = ()


def of_whole_turns(parts: Sequence[TurnVerdict]) -> list[TurnVerdict]:
    """A verdict a turn: a turn in which the model called tools was replayed part by part."""
    turns: list[TurnVerdict] = []
    for part in parts:
        if turns and turns[-1].turn == part.turn:
            turns[-1] = _joined(turns[-1], part)
        else:
            turns.append(part)
    return turns


def _joined(a: TurnVerdict, b: TurnVerdict) -> TurnVerdict:
    tokens = a.tokens + b.tokens
    total = a.logprob_difference_mean * a.tokens + b.logprob_difference_mean * b.tokens
    return TurnVerdict(
        turn=a.turn,
        verdict=worst([a.verdict, b.verdict]),
        tokens=tokens,
        sampled=a.sampled or b.sampled,
        mismatches=a.mismatches + b.mismatches,
        near_ties=a.near_ties + b.near_ties,
        margin_max=max(a.margin_max, b.margin_max),
        logprob_difference_max=max(a.logprob_difference_max, b.logprob_difference_max),
        logprob_difference_mean=total / max(tokens, 1),
        processed_difference_max=max(a.processed_difference_max, b.processed_difference_max),
        generator_matches=_both(a.generator_matches, b.generator_matches),
        stop_matches=_both(a.stop_matches, b.stop_matches),
        logprob_differences=(*a.logprob_differences, *b.logprob_differences),
        margins=(*a.margins, *b.margins),
    )


def _both(a: bool | None, b: bool | None) -> bool | None:
    """False where either is, None where neither says anything."""
    said = [each for each in (a, b) if each is not None]
    return all(said) if said else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldDifference:
    """A fingerprint that is not the recorded one. Where it `forbids`, numbers cannot agree.

    `ignored` says that the caller asked for a verdict in spite of it. `detail` names what of it
    differs where that is known, such as the tensors.
    """

    field: str
    recorded: str
    replayed: str
    forbids: bool
    ignored: bool = False
    detail: str = ""


CAUSES = (
    "weights",
    "tokenizer",
    "template",
    "dtype",
    "device",
    "random_stream",
    "recording",
    "prompt",
    "tool_result",
    "token",
    "seed",
    "draws",
    "sampler",
    "stop",
    "text",
    "seal",
    "numerics",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why the two sides differ, as far as it shows. `name` is one of `CAUSES`.

    `sentence` is for people; `turn` and `step` are where it shows first.
    """

    name: str
    sentence: str
    turn: int | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDrift:
    """A field of a tool's result that was another when the tool was run again."""

    turn: int
    call_id: str
    tool: str
    field: str
    recorded: str
    replayed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of a verification or a regeneration.

    `causes` are in order of likelihood; empty where the verdict passes without a remark.
    `differences` are fingerprints, `altered` what contradicts itself within the recording.
    """

    replay: str
    run_id: str
    name: str
    model: str
    verdict: Verdict
    reason: str
    causes: tuple[Cause, ...]
    turns: tuple[TurnVerdict, ...]
    divergences: tuple[Divergence, ...]
    differences: tuple[FieldDifference, ...]
    altered: tuple[str, ...]
    floor: Floor | None
    predicted_flips: float
    duration_us: int
    generation_us: int
    repro: str
    tools: tuple[ToolDrift, ...] = ()

    @property
    def passes(self) -> bool:
        return self.verdict.passes

    @property
    def first(self) -> Divergence | None:
        return self.divergences[0] if self.divergences else None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The fingerprints that differ and were not to count."""
        return tuple(each.field for each in self.differences if each.ignored)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return asdict(self) | {
            "passes": self.passes,
            "ignored": list(self.ignored),
            "first": None if self.first is None else asdict(self.first),
        }
