"""The report of a replay as data, for pages, tests and gates to render or judge."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tokentape.recorder.short_forms import counted, html_facts, html_table, short_repr
from tokentape.replay.results.renderers import rendered
from tokentape.replay.results.row_difference import RowDifference
from tokentape.replay.results.verdict import CauseKind, DivergenceKind, Verdict, worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The noise floor of one dtype: how far two correct forwards may differ."""

    version: str
    """Names the measurement; holds a hash of the other fields unless the floor is built in."""
    dtype: str
    margin_eps: float
    """Raw logits: a pick may differ when the two best tokens are closer than this."""
    logprob_floor: float
    """Nats: the largest difference of a log-probability that counts as noise."""
    margin_noise: float
    """Raw logits: mean difference of a margin, from which near ties are predicted."""
    logprob_noise: float
    """Nats: mean difference of a log-probability."""
    tokens: int
    """Number of positions measured."""
    measured_on: str
    """Model, torch version, device and forward variants, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredToken:
    """A token as one side of a divergence sees it."""

    token_id: int
    text: str
    logprob: float
    """Raw log-probability, before the logits processors."""
    score: float | None = None
    """The pick is the token with the largest score: processed logits plus the sampler's noise,
    times the temperature. None on the recorded side, and where a processor removed the token."""
    filtered_by: str = ""
    """Class of the logits processor that removed the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """One token on which the recorded and the replayed side disagree."""

    kind: DivergenceKind
    turn: int
    step: int
    position: int
    recorded: ScoredToken
    replayed: ScoredToken
    margin: float | None
    """Raw logits by which the recorded token falls short of the pick; None if it was filtered."""
    boundary_gap: float | None
    """Raw logits that a filtered token falls short of the last token that the filter keeps."""
    logprob_difference: float
    """Nats, of the recorded token's raw log-probability."""
    processed_difference: float | None
    """Nats, of the recorded token's log-probability after the processors."""
    text_before: str
    text_after: str
    recorded_top: tuple[ScoredToken, ...]
    replayed_top: tuple[ScoredToken, ...]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TurnVerdict:
    """The verdict on one turn, or on one round of a turn with tool calls."""

    turn: int
    verdict: Verdict
    tokens: int
    """Number of tokens compared."""
    sampled: bool
    mismatches: int
    near_ties: int
    margin_max: float
    """Raw logits."""
    logprob_difference_max: float
    """Nats, as are the two fields below."""
    logprob_difference_mean: float
    processed_difference_max: float
    generator_matches: bool | None
    """Whether the seed leads to the recorded end state; None for greedy and cut-off turns."""
    stop_matches: bool | None = None
    """Whether the settings stop the turn at its last token for its stop reason; None where they do
    not decide it, and where it was not checked."""
    logprob_differences: tuple[float, ...] = ()
    """Nats, one entry a token."""
    margins: tuple[float | None, ...] = ()
    """Raw logits by which each recorded token lost; None where it was filtered."""
    differing_rows: int | None = None
    """Rows with a number or a pick that is not the recorded one, bit for bit; None where only
    `retrace` compares bits."""

    def __repr__(self) -> str:
        facts = f"{self.turn}: {self.verdict}, {counted(self.tokens, 'token')},"
        return short_repr(self, facts, f"{self.mismatches} differ, {self.near_ties} near ties")


def merge_rounds(rounds: Sequence[TurnVerdict]) -> list[TurnVerdict]:
    """Return one verdict a turn: the rounds of a turn with tool calls are checked one by one."""
    turns: list[TurnVerdict] = []
    for each in rounds:
        if turns and turns[-1].turn == each.turn:
            turns[-1] = _merged(turns[-1], each)
        else:
            turns.append(each)
    return turns


def _merged(a: TurnVerdict, b: TurnVerdict) -> TurnVerdict:
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
        generator_matches=_all_known(a.generator_matches, b.generator_matches),
        stop_matches=_all_known(a.stop_matches, b.stop_matches),
        logprob_differences=(*a.logprob_differences, *b.logprob_differences),
        margins=(*a.margins, *b.margins),
        differing_rows=None
        if a.differing_rows is None or b.differing_rows is None
        else a.differing_rows + b.differing_rows,
    )


def _all_known(a: bool | None, b: bool | None) -> bool | None:
    """Return False if either is False, None if both are None, else True."""
    known = [each for each in (a, b) if each is not None]
    return all(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintDifference:
    """A fingerprint of model, tokenizer or machine that is not the recorded one."""

    field: str
    recorded: str
    replayed: str
    forbids: bool
    """Whether the numbers cannot be compared because of it."""
    ignored: bool = False
    """Whether the caller asked for a verdict in spite of it."""
    detail: str = ""
    """The smaller parts that differ, such as tensors, where they are known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """A likely reason why the two sides differ, and where it first shows."""

    name: CauseKind
    sentence: str
    turn: int | None = None
    step: int | None = None
    changes_prompts: bool = False
    """Whether today's template or tokenizer makes other prompts of the recorded messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDrift:
    """A field of a tool's result that differs when the tool is run again."""

    turn: int
    call_id: str
    tool: str
    field: str
    recorded: str
    """JSON, or `missing`; of a long value an excerpt around the first difference."""
    replayed: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """The result of `verify`, `retrace` or `regenerate`."""

    replay: str
    """`verify`, `retrace` or `regenerate`."""
    run_id: str
    name: str
    model: str
    verdict: Verdict
    reason: str
    causes: tuple[Cause, ...]
    """The likeliest first; empty where the verdict passes and nothing differs."""
    turns: tuple[TurnVerdict, ...]
    divergences: tuple[Divergence, ...]
    differences: tuple[FingerprintDifference, ...]
    altered: tuple[str, ...]
    """Contradictions within the recording."""
    floor: Floor | None
    predicted_flips: float
    """Number of near ties that the noise predicts."""
    duration_us: int
    generation_us: int
    """Duration of the recorded generation."""
    repro: str
    """Command line that repeats the replay of the first turn that diverges."""
    tools: tuple[ToolDrift, ...] = ()
    rows: tuple[RowDifference, ...] = ()
    """The rows that `retrace` did not compute to the bit, in order."""
    run_status: str = ""
    """How the recorded run ended, such as `finished` or `failed: ValueError: …`; `running` if no
    event ends it."""

    @property
    def ending(self) -> str:
        """The status of the recorded run for a header; empty for a run that finished."""
        return "" if self.run_status in ("", "finished") else self.run_status

    @property
    def passes(self) -> bool:
        return self.verdict.passes

    @property
    def first(self) -> Divergence | None:
        """The first divergence."""
        return self.divergences[0] if self.divergences else None

    @property
    def ignored(self) -> tuple[str, ...]:
        """The fingerprints that differ and that the caller ignored."""
        return tuple(each.field for each in self.differences if each.ignored)

    def __repr__(self) -> str:
        return short_repr(
            self,
            f"of {self.replay}:",
            f"{self.verdict},",
            f"run {self.run_id},",
            f"{counted(len(self.turns), 'turn')},",
            f"{counted(len(self.divergences), 'divergence')}{',' if self.ending else ''}",
            f"run {self.ending}" if self.ending else "",
        )

    def _repr_html_(self) -> str:
        title = f"{self.replay} of run {self.name or self.run_id}: {self.verdict}"
        head = ("turn", "verdict", "tokens", "differ", "near ties", "largest difference (nats)")
        rows: list[tuple[object, ...]] = [
            (
                each.turn,
                each.verdict,
                each.tokens,
                each.mismatches,
                each.near_ties,
                f"{each.logprob_difference_max:.1e}",
            )
            for each in self.turns
        ]
        facts = [("reason", self.reason)] if self.reason else []
        facts += [("the run", self.ending)] if self.ending else []
        facts += [(f"cause {rank}", each.sentence) for rank, each in enumerate(self.causes, 1)]
        facts += [("all of it", "print(report.text()), report.html()")]
        return html_table(title, head, rows, end="more turns") + html_facts("", facts)

    def text(self) -> str:
        """Return the report as the command line prints it: every divergence, the first in full."""
        return rendered(self, "text")

    def html(self) -> str:
        """Return the report as one self-contained web page with charts, without scripts."""
        return rendered(self, "html")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return asdict(self) | {
            "passes": self.passes,
            "ignored": list(self.ignored),
            "first": None if self.first is None else asdict(self.first),
        }
