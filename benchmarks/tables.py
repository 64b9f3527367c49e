"""How the figures are shown. Nothing is measured here."""

from collections.abc import Iterator, Sequence
from statistics import median

from rich.table import Table

from benchmarks.conversation import ConversationFigures, ForwardVariant
from benchmarks.decode import Decoding, RecordingCost
from benchmarks.prefill import Forwarded
from benchmarks.prefill_memory import Prefill, Transient
from benchmarks.replaying import ReplayFigures
from benchmarks.restart import Begun

_SHOWN_TURNS = (1, 2, 3, 4, 5, 10, 15, 20)


def forwarded_table(lengths: Sequence[int], ways: Sequence[Forwarded]) -> Table:
    table = _table(("turn",), ("prompt", *(each.way for each in ways)))
    before = (f"{each.before_turns:,}" for each in ways)
    table.add_row("before", "", *before)
    for turn in (each for each in _SHOWN_TURNS if each <= len(lengths)):
        counts = (f"{each.by_turn[turn - 1]:,}" for each in ways)
        table.add_row(str(turn), f"{lengths[turn - 1]:,}", *counts)
    table.add_section()
    table.add_row("all", f"{sum(lengths):,}", *(f"{each.total:,}" for each in ways))
    table.add_row("fewer", "", *(f"{ways[0].total / each.total:.2f} x" for each in ways))
    return table


def transient_table(figures: Sequence[Transient]) -> Table:
    headings = ("one score tensor", "transient", "of it", "KV that stays")
    table = _table(("prefill", "attention"), headings)
    table.add_column("how")
    for each in figures:
        prefill = each.prefill
        table.add_row(
            f"{prefill.new_tokens:,} new behind {prefill.held_tokens:,}",
            prefill.described(),
            _gb(prefill.score_bytes),
            _gb(each.at_full_heads),
            f"{each.at_full_heads / prefill.score_bytes:.1%}",
            _gb(prefill.kept_bytes),
            each.how,
        )
    return table


def plan_table(lengths: Sequence[int], ways: Sequence[Forwarded]) -> Table:
    """Turn 3 of the plan: what it hoped for, and what is counted."""
    plain, system, whole = (each.by_turn[2] for each in ways)
    table = Table("turn 3, tokens forwarded", box=None)
    for heading in ("before", "after", "reduction"):
        table.add_column(heading, justify="right")
    table.add_row(
        "system prompt cached (the plan)", f"{plain:,}", f"{system:,}", _less(plain, system)
    )
    table.add_row("whole history cached (ours)", f"{plain:,}", f"{whole:,}", _less(plain, whole))
    return table


def score_sums(system_tokens: int, prompt_tokens: int, heads: int) -> Iterator[str]:
    """The size of one score tensor at turn 3, with its shape, for each shape that is claimed."""
    new_tokens = prompt_tokens - system_tokens
    shapes = (
        (prompt_tokens, prompt_tokens, "without a cache"),
        (new_tokens, new_tokens, "new tokens among themselves: the wrong shape"),
        (new_tokens, prompt_tokens, "new tokens against all keys"),
    )
    for queries, keys, what in shapes:
        size = Prefill(held_tokens=keys - queries, new_tokens=queries, attention="", heads=heads)
        yield (
            f"{heads} heads x {queries:,} queries x {keys:,} keys x 2 B = "
            f"{_gb(size.score_bytes)}  {what}"
        )


def replay_table(figures: ReplayFigures) -> Table:
    headings = ("prompt", "tokens", "generated s", "regenerated s")
    table = _table(("turn", "sampler"), headings)
    table.add_column("verdict")
    for each in figures.turns:
        table.add_row(
            str(each.turn),
            "sampled" if each.sampled else "greedy",
            f"{each.prompt_tokens:,}",
            str(each.tokens),
            f"{each.generated_s:.1f}",
            f"{each.regenerated_s:.1f}",
            each.verdict,
        )
    return table


def decode_table(decodings: Sequence[Decoding]) -> Table:
    headings = ("tokentape ms", "generate ms", "ratio", "least", "most", "rounds")
    table = _table(("context", "sampler"), headings)
    table.add_column("tokens")
    for each in decodings:
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
    headings = ("keep it, among steps", "of a step", "keep it, alone", "measure it, alone")
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
    headings = ("turns", "prefill tokens", "seconds", "turn 1", "later turns", "time to ours")
    table = _table(("way",), headings)
    for way in (figures.ours, figures.carried, figures.fresh):
        if way.seconds:
            turns = len(way.seconds)
            table.add_row(
                way.name,
                str(turns),
                f"{sum(way.prefill_tokens):,}",
                f"{sum(way.seconds):.1f}",
                f"{way.seconds[0]:.1f}",
                f"{way.later_seconds:.2f}" if turns > 1 else "",
                f"{time_ratio(way, figures.ours):.2f} x",
            )
    return table


def time_ratio(way: ForwardVariant, ours: ForwardVariant) -> float:
    """Over the turns that both have."""
    turns = len(way.seconds)
    return sum(way.seconds) / sum(ours.seconds[:turns])


def restart_table(begun: Sequence[Begun]) -> Table:
    table = _table(("process", "system prompt"), ("tokens computed", "seconds", "faster"))
    for number, each in enumerate(begun, 1):
        table.add_row(
            str(number),
            f"restored from {each.source}" if each.source else "computed and kept on disk",
            f"{each.computed_tokens:,}",
            f"{each.seconds:.2f}",
            f"{begun[0].seconds / each.seconds:.1f} x",
        )
    return table


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
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
