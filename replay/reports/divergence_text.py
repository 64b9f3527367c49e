"""Plain-text rendering of a divergence: in full with both sides in columns, or in one line."""

import math
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from tokentape.recorder.escapes import padded, quoted, visible
from tokentape.replay.results.report import Cause, Divergence, Report, ScoredToken

_TOKEN_COLUMNS = 48
_CELL_COLUMNS = 20
_TEXT_COLUMNS = 72
_SERIES_MAX = 40
_NUMBERS_MAX = 6
_LEVELS = "▁▂▃▄▅▆▇█"
# The level of the floor: a difference up to it is noise.
_FLOOR_LEVEL = 3
_FLOOR_IF_UNKNOWN = 1e-4


def in_full(report: Report, each: Divergence) -> list[str]:
    """Return lines with the place of a divergence, its text, both tokens, top tokens and cause."""
    cause = likely_cause(report, each)
    return [
        f"first divergence: turn {each.turn}, token {each.step}, position {each.position} "
        f"({each.kind}: {each.kind.meaning})",
        f"  before    {quoted(each.text_before, _TEXT_COLUMNS, keep='end')}",
        f"  token  -> {quoted(each.recorded.text, _TEXT_COLUMNS)} <-",
        f"  after     {quoted(each.text_after, _TEXT_COLUMNS)}",
        *_both_tokens(each),
        f"  margin    {margin_text(report, each)}",
        f"  log-probability of the recorded token {difference_text(report, each)}",
        *_top_tokens(each),
        *_series(report, each),
        *([f"  likely cause: {visible(cause)}"] if cause else []),
    ]


def in_short(each: Divergence) -> str:
    """Return one line, for the divergences after the first."""
    margin = "filtered" if each.margin is None else f"margin {each.margin:.3g}"
    return (
        f"turn {each.turn} token {each.step}: {each.kind}, "
        f"{quoted(each.recorded.text, _CELL_COLUMNS)} / "
        f"{quoted(each.replayed.text, _CELL_COLUMNS)}, {margin}, "
        f"log-probability differs by {each.logprob_difference:.1e}"
    )


def likely_cause(report: Report, each: Divergence) -> str:
    """Return the sentence of the cause at this token, or else of the report's first cause."""
    token = (each.turn, each.step)
    here = next((cause for cause in report.causes if (cause.turn, cause.step) == token), None)
    cause: Cause | None = here or next(iter(report.causes), None)
    return report.reason if cause is None else cause.sentence


def margin_text(report: Report, each: Divergence) -> str:
    """Return the margin of the recorded token, and the margin that noise explains."""
    eps = f"eps {report.floor.margin_eps:g}" if report.floor else "no eps known"
    margin = "filtered by the sampler" if each.margin is None else f"{each.margin:.3g} logits"
    if each.boundary_gap is not None:
        margin += f", {each.boundary_gap:.3g} logits short of the boundary"
    return f"{margin} ({eps})"


def difference_text(report: Report, each: Divergence) -> str:
    """Return the difference of the log-probability, and the difference that noise explains."""
    floor = f"floor {report.floor.logprob_floor:g}" if report.floor else "no floor known"
    text = f"differs by {each.logprob_difference:.3g} nats ({floor})"
    if each.processed_difference is not None:
        text += f", after the processors by {each.processed_difference:.3g}"
    return text


def differences_before(report: Report, each: Divergence) -> tuple[float, ...]:
    """Return the differences of the turn's log-probabilities up to this token, in nats."""
    turn = next((turn for turn in report.turns if turn.turn == each.turn), None)
    return () if turn is None else turn.logprob_differences[: each.step + 1]


def sparkline(values: Sequence[float], floor: float | None) -> str:
    """Return one character a value, on a log scale: each level is a factor of ten."""
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
    texts = [quoted(token.text, _TOKEN_COLUMNS) for _, token in sides]
    columns = max(map(cell_len, texts))
    digits = max(len(str(token.token_id)) for _, token in sides)
    for (side, token), text in zip(sides, texts, strict=True):
        score = "" if token.score is None else f", score {token.score:.4f}"
        cut = f", removed by {visible(token.filtered_by)}" if token.filtered_by else ""
        yield (
            f"  {side}  {padded(text, columns)}  id {token.token_id:<{digits}}  "
            f"log-probability {token.logprob:.4f}{score}{cut}"
        )


def _top_tokens(each: Divergence) -> Iterator[str]:
    rows = max(len(each.recorded_top), len(each.replayed_top))
    if not rows:
        return
    left = [_ranked(each.recorded_top, rank) for rank in range(rows)]
    right = [_ranked(each.replayed_top, rank) for rank in range(rows)]
    columns = max(cell_len("recorded top tokens"), *map(cell_len, left))
    yield f"     {padded('recorded top tokens', columns)}    replayed top tokens"
    for rank, (one, other) in enumerate(zip(left, right, strict=True), 1):
        yield f"  {rank:>2} {padded(one, columns)}    {other}".rstrip()


def _ranked(tokens: tuple[ScoredToken, ...], rank: int) -> str:
    if rank >= len(tokens):
        return ""
    each = tokens[rank]
    # Two for the quotes, one for an ellipsis.
    text = padded(quoted(each.text, _CELL_COLUMNS), _CELL_COLUMNS + 3)
    line = f"{each.logprob:9.4f}  {text} {each.token_id:>6}"
    if each.filtered_by:
        return f"{line}  removed by {visible(each.filtered_by)}"
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
        f"  differences of tokens {first} to {last}: {sparkline(shown, floor)}  ({scale})",
        f"    the last {len(numbers)}: {' '.join(f'{value:.1e}' for value in numbers)}",
    ]
