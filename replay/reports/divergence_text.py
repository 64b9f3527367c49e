"""A divergence in plain text: in full with both sides beside each other, or in one line."""

import math
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from tokentape.recorder.escapes import padded, quoted, visible
from tokentape.replay.results.report import Cause, Divergence, Report, ScoredToken

KINDS = {
    "token": "another token is picked",
    "filtered": "the sampler would have filtered it",
    "near_tie": "another is picked, within the noise",
    "logprob": "the same is picked, with another log-probability",
    "sampler": "the same is picked, with another log-probability after the processors",
}

_TOKEN_COLUMNS = 48
_CELL_COLUMNS = 20
_TEXT_COLUMNS = 72
_SERIES_MAX = 40
_NUMBERS_MAX = 6
_LEVELS = "▁▂▃▄▅▆▇█"
# Up to this one a difference is noise.
_FLOOR_LEVEL = 3
_FLOOR_IF_UNKNOWN = 1e-4


def in_full(report: Report, each: Divergence) -> list[str]:
    """Where it is, the text around it, both tokens and their candidates, and why it may be."""
    cause = likely_cause(report, each)
    return [
        f"first divergence: turn {each.turn}, token {each.step}, position {each.position} "
        f"({visible(each.kind)}: {visible(KINDS.get(each.kind, 'unknown'))})",
        f"  before    {quoted(each.text_before, _TEXT_COLUMNS, keep='end')}",
        f"  token  -> {quoted(each.recorded.text, _TEXT_COLUMNS)} <-",
        f"  after     {quoted(each.text_after, _TEXT_COLUMNS)}",
        *_both_tokens(each),
        f"  margin    {margin_text(report, each)}",
        f"  log-probability of the recorded token {difference_text(report, each)}",
        *_candidates(each),
        *_series(report, each),
        *([f"  likely cause: {visible(cause)}"] if cause else []),
    ]


def in_short(each: Divergence) -> str:
    """One line, for those that come after the first."""
    margin = "filtered" if each.margin is None else f"margin {each.margin:.3g}"
    return (
        f"turn {each.turn} token {each.step}: {visible(each.kind)}, "
        f"{quoted(each.recorded.text, _CELL_COLUMNS)} / "
        f"{quoted(each.replayed.text, _CELL_COLUMNS)}, {margin}, "
        f"off by {each.logprob_difference:.1e}"
    )


def likely_cause(report: Report, each: Divergence) -> str:
    """What is said of this place, or else of the whole."""
    place = (each.turn, each.step)
    here = next((cause for cause in report.causes if (cause.turn, cause.step) == place), None)
    cause: Cause | None = here or next(iter(report.causes), None)
    return report.reason if cause is None else cause.sentence


def margin_text(report: Report, each: Divergence) -> str:
    """By how much the recorded token lost, beside what noise explains."""
    eps = f"eps {report.floor.margin_eps:g}" if report.floor else "no eps is known"
    margin = "filtered by the sampler" if each.margin is None else f"{each.margin:.3g} logits"
    if each.boundary_gap is not None:
        margin += f", {each.boundary_gap:.3g} logits short of the boundary"
    return f"{margin} ({eps})"


def difference_text(report: Report, each: Divergence) -> str:
    """How far the log-probability is off, beside what noise explains."""
    floor = f"floor {report.floor.logprob_floor:g}" if report.floor else "no floor is known"
    text = f"off by {each.logprob_difference:.3g} nats ({floor})"
    if each.processed_difference is not None:
        text += f", after the processors by {each.processed_difference:.3g}"
    return text


def differences_before(report: Report, each: Divergence) -> tuple[float, ...]:
    """The differences of the turn's log-probabilities, up to this token's where it has one."""
    turn = next((turn for turn in report.turns if turn.turn == each.turn), None)
    return () if turn is None else turn.logprob_differences[: each.step + 1]


def sparkline(values: Sequence[float], floor: float | None) -> str:
    """A character a value, on a log scale: a level is a factor of ten."""
    return "".join(_level(value, floor or _FLOOR_IF_UNKNOWN) for value in values)


def _level(value: float, floor: float) -> str:
    if math.isnan(value):
        return "?"
    if value <= 0.0:
        return _LEVELS[0]
    if math.isinf(value):
        return _LEVELS[-1]
    level = _FLOOR_LEVEL + math.ceil(math.log10(value / floor))
    return _LEVELS[min(max(level, 0), len(_LEVELS) - 1)]


def _both_tokens(each: Divergence) -> Iterator[str]:
    sides = (("recorded", each.recorded), ("replayed", each.replayed))
    texts = [quoted(candidate.text, _TOKEN_COLUMNS) for _, candidate in sides]
    columns = max(map(cell_len, texts))
    digits = max(len(str(candidate.token_id)) for _, candidate in sides)
    for (side, candidate), text in zip(sides, texts, strict=True):
        score = "" if candidate.score is None else f", score {candidate.score:.4f}"
        cut = f", taken out by {visible(candidate.filtered_by)}" if candidate.filtered_by else ""
        yield (
            f"  {side}  {padded(text, columns)}  id {candidate.token_id:<{digits}}  "
            f"log-probability {candidate.logprob:.4f}{score}{cut}"
        )


def _candidates(each: Divergence) -> Iterator[str]:
    rows = max(len(each.recorded_top), len(each.replayed_top))
    if not rows:
        return
    left = [_ranked(each.recorded_top, rank) for rank in range(rows)]
    right = [_ranked(each.replayed_top, rank) for rank in range(rows)]
    columns = max(cell_len("recorded candidates"), *map(cell_len, left))
    yield f"     {padded('recorded candidates', columns)}    replayed candidates"
    for rank, (one, other) in enumerate(zip(left, right, strict=True), 1):
        yield f"  {rank:>2} {padded(one, columns)}    {other}".rstrip()


def _ranked(candidates: tuple[ScoredToken, ...], rank: int) -> str:
    if rank >= len(candidates):
        return ""
    each = candidates[rank]
    # Two for the quotes, one for an ellipsis.
    text = padded(quoted(each.text, _CELL_COLUMNS), _CELL_COLUMNS + 3)
    line = f"{each.logprob:9.4f}  {text} {each.token_id:>6}"
    if each.filtered_by:
        return f"{line}  taken out by {visible(each.filtered_by)}"
    return line if each.score is None else f"{line}  score {each.score:9.4f}"


def _series(report: Report, each: Divergence) -> list[str]:
    series = differences_before(report, each)
    if not series:
        return []
    floor = report.floor.logprob_floor if report.floor else None
    shown, numbers = series[-_SERIES_MAX:], series[-_NUMBERS_MAX:]
    first, last = len(series) - len(shown), len(series) - 1
    scale = f"a step is a factor of ten, the floor is {_LEVELS[_FLOOR_LEVEL]}"
    if floor is None:
        scale = f"a step is a factor of ten, {_LEVELS[_FLOOR_LEVEL]} is {_FLOOR_IF_UNKNOWN:g}"
    return [
        f"  off by, tokens {first} to {last}: {sparkline(shown, floor)}  ({scale})",
        f"    the last {len(numbers)}: {' '.join(f'{value:.1e}' for value in numbers)}",
    ]
