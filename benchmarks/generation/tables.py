"""Tables of the figures of `decode`, `prefill` and `conversation`."""

from collections.abc import Iterator, Sequence
from statistics import median

from rich.table import Table

from benchmarks.generation.conversation import ConversationFigures, StrategyFigures
from benchmarks.generation.decode import DecodeComparison, RecordingCost
from benchmarks.generation.prefill import Forwarded
from benchmarks.generation.prefill_memory import Prefill, TransientMemory
from benchmarks.generation.prefix_restore import StartFigures

_SHOWN_TURNS = (1, 2, 3, 4, 5, 10, 15, 20)


def forwarded_table(lengths: Sequence[int], strategies: Sequence[Forwarded]) -> Table:
    """Return a table of tokens forwarded: a row for each turn, a column for each strategy."""
    table = _table(("turn",), ("prompt", *(each.strategy for each in strategies)))
    before = (f"{each.before_turns:,}" for each in strategies)
    table.add_row("before", "", *before)
    for turn in (each for each in _SHOWN_TURNS if each <= len(lengths)):
        counts = (f"{each.by_turn[turn - 1]:,}" for each in strategies)
        table.add_row(str(turn), f"{lengths[turn - 1]:,}", *counts)
    table.add_section()
    table.add_row("all", f"{sum(lengths):,}", *(f"{each.total:,}" for each in strategies))
    fewer = (f"{strategies[0].total / each.total:.2f} x" for each in strategies)
    table.add_row("fewer", "", *fewer)
    return table


def transient_table(figures: Sequence[TransientMemory]) -> Table:
    """Return a table of transient memory, a row for each prefill."""
    headings = ("one score tensor", "transient", "ratio", "new KV")
    table = _table(("prefill", "attention"), headings)
    table.add_column("how")
    for each in figures:
        prefill = each.prefill
        table.add_row(
            f"{prefill.new_tokens:,} new after {prefill.cached_tokens:,}",
            prefill.label(),
            _gb(prefill.score_bytes),
            _gb(each.at_full_heads),
            f"{each.at_full_heads / prefill.score_bytes:.1%}",
            _gb(prefill.kv_bytes),
            each.how,
        )
    return table


def plan_table(strategies: Sequence[Forwarded]) -> Table:
    """Return a table of turn 3: the reduction that the plan expected, and tokentape's."""
    plain, system, whole = (each.by_turn[2] for each in strategies)
    table = Table("turn 3, tokens forwarded", box=None)
    for heading in ("before", "after", "reduction"):
        table.add_column(heading, justify="right")
    table.add_row(
        "system prompt cached (the plan)", f"{plain:,}", f"{system:,}", _less(plain, system)
    )
    table.add_row(
        "whole history cached (tokentape)", f"{plain:,}", f"{whole:,}", _less(plain, whole)
    )
    return table


def score_tensor_sizes(system_tokens: int, prompt_tokens: int, heads: int) -> Iterator[str]:
    """Yield a line with the shape and size of one score tensor at turn 3, for each claim."""
    new_tokens = prompt_tokens - system_tokens
    shapes = (
        (prompt_tokens, prompt_tokens, "without a cache"),
        (new_tokens, new_tokens, "new tokens among themselves: the wrong shape"),
        (new_tokens, prompt_tokens, "new tokens against all keys"),
    )
    for queries, keys, label in shapes:
        prefill = Prefill(
            cached_tokens=keys - queries, new_tokens=queries, attention="", heads=heads
        )
        yield (
            f"{heads} heads x {queries:,} queries x {keys:,} keys x 2 B = "
            f"{_gb(prefill.score_bytes)}  {label}"
        )


def decode_table(comparisons: Sequence[DecodeComparison]) -> Table:
    """Return a table of milliseconds a step, with the range of the ratios."""
    headings = ("tokentape ms", "generate ms", "ratio", "min", "max", "rounds")
    table = _table(("context", "sampler"), headings)
    table.add_column("tokens")
    for each in comparisons:
        table.add_row(
            f"{each.context_tokens:,}",
            each.sampler,
            f"{median(each.our_ms):.1f}",
            f"{median(each.their_ms):.1f}",
            f"{median(each.ratios):.3f} x",
            f"{min(each.ratios):.3f}",
            f"{max(each.ratios):.3f}",
            str(len(each.ratios)),
            _identical(each.same_tokens),
        )
    return table


def cost_table(costs: Sequence[tuple[int, RecordingCost]]) -> Table:
    """Return a table of what recording a token costs, a row for each context length."""
    headings = ("record, in steps", "of a step", "record alone", "measure alone")
    table = _table(("context",), headings)
    for context, cost in costs:
        table.add_row(
            f"{context:,}",
            f"{cost.record_ms:.3f} ms",
            f"{cost.record_share:.2%}",
            f"{cost.record_alone_ms:.3f} ms",
            f"{cost.measure_alone_ms:.3f} ms",
        )
    return table


def conversation_table(figures: ConversationFigures) -> Table:
    """Return a table with a row for each strategy."""
    headings = ("turns", "prefill tokens", "seconds", "turn 1", "later turns", "to tokentape")
    table = _table(("strategy",), headings)
    for strategy in (figures.ours, figures.reused, figures.fresh):
        if strategy.seconds:
            turns = len(strategy.seconds)
            table.add_row(
                strategy.name,
                str(turns),
                f"{sum(strategy.prefill_tokens):,}",
                f"{sum(strategy.seconds):.1f}",
                f"{strategy.seconds[0]:.1f}",
                f"{strategy.later_seconds:.2f}" if turns > 1 else "",
                f"{time_ratio(strategy, figures.ours):.2f} x",
            )
    return table


def time_ratio(strategy: StrategyFigures, ours: StrategyFigures) -> float:
    """Return the time of a strategy over that of tokentape, in the turns that both have."""
    turns = len(strategy.seconds)
    return sum(strategy.seconds) / sum(ours.seconds[:turns])


def prefix_restore_table(starts: Sequence[StartFigures]) -> Table:
    """Return a table with a row for each process."""
    table = _table(("process", "system prompt"), ("tokens computed", "seconds", "faster"))
    for number, each in enumerate(starts, 1):
        table.add_row(
            str(number),
            f"restored from {each.source}" if each.source else "computed and stored on disk",
            f"{each.computed_tokens:,}",
            f"{each.seconds:.2f}",
            f"{starts[0].seconds / each.seconds:.1f} x",
        )
    return table


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
    """Return an empty table with left-aligned and right-aligned columns."""
    table = Table(*left, box=None)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _less(before: int, after: int) -> str:
    return f"{1 - after / before:.0%}"


def _identical(same: bool) -> str:
    return "identical" if same else "DIFFERENT"
