"""The tables of docs/gpu.md, one for each section of findings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.gpu.findings import good

HEADING_LINES = 2
"""Lines of a table without a row."""
_Figures = Mapping[str, Any]


def _table(headings: Sequence[str], rows: Iterator[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(map(_text, row))} |"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _mib(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f}"


def _environment(figures: _Figures) -> Iterator[str]:
    rows = [
        (name, f"`{value}`")
        for what in ("environment", "packages", "machine")
        for each in good(figures, "environment", what)
        for name, value in each.items()
        if name != "what"
    ]
    return _table(("name", "value"), iter(rows))


def _parity(figures: _Figures) -> Iterator[str]:
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for what in ("retrace", "verify", "regenerate"):
        for each in good(figures, "parity", what):
            shown = f"{each['verdict']}, {each['worst_nats']:.2g} nats"
            if what == "retrace":
                shown = f"{each['verdict']}, {each['rows_that_differ']} of {each['tokens']} differ"
            cells.setdefault((each["family"], each["dtype"]), {})[what] = shown
    for each in good(figures, "parity", "floor"):
        row = cells.setdefault((each["family"], each["dtype"]), {})
        row["floor"] = f"{each['logprob_floor']:.2g}"
    for each in good(figures, "parity", "generate"):
        row = cells.setdefault((each["family"], each["dtype"]), {})
        bits = f"{each['same_bits']} of {each['compared']}"
        row["generate"] = f"{bits}; {each['same_tokens_as_fresh']} of {each['cells']}"
    columns = ("retrace", "floor", "verify", "regenerate", "generate")
    headings = ("family", "dtype", "retrace", "floor, nats", "verify", "regenerate")
    return _table(
        (*headings, "bits; tokens as `generate`"),
        ((*key, *(row.get(each, "") for each in columns)) for key, row in cells.items()),
    )


def _retraces(figures: _Figures) -> Iterator[str]:
    rows = (
        (
            each["where"],
            each["dtype"],
            each["verdict"],
            f"{each['rows_that_differ']} of {each['tokens']}",
            f"{each['rows_unlike_plain']} of {each['same_tokens_as_plain']}"
            if "rows_unlike_plain" in each
            else "",
        )
        for each in good(figures, "retraces", "retrace")
    )
    headings = ("where", "dtype", "retrace", "rows that differ", "recording unlike the plain one")
    return _table(headings, rows)


def _faults(figures: _Figures) -> Iterator[str]:
    rows = (
        (
            each["fault"],
            each["dtype"],
            each["verdict"],
            "no bit changed" if each["rounded_away"] else each["cause"] or "none",
            each["numbers"],
            f"{each['rows_that_differ']} of {each['tokens']}",
            "" if each["right"] else "WRONG",
        )
        for each in good(figures, "faults", "fault")
    )
    headings = ("fault", "dtype", "verdict", "cause named first", "by the numbers alone")
    return _table((*headings, "rows that differ", ""), rows)


def _deterministic(figures: _Figures) -> Iterator[str]:
    verdicts = {
        (each["dtype"], each["now"]): each["verdict"]
        for each in good(figures, "deterministic", "retrace")
    }
    names = ("deterministic_ms", "plain_ms", "deterministic_least_ms", "plain_least_ms")
    rows = (
        (
            each["dtype"],
            *(each[name] for name in names),
            each["same_tokens"],
            *(verdicts.get((each["dtype"], now), "") for now in ("on", "off")),
        )
        for each in good(figures, "deterministic", "step")
    )
    headings = ("dtype", "ms a token", "without", "least", "least without", "same tokens")
    return _table((*headings, "retraced with", "retraced without"), rows)


def _turns(figures: _Figures) -> Iterator[str]:
    """Return the memory of each turn; the times are in the table of `_times`."""
    rows = (
        (
            each["turn"],
            *(
                _mib(each[name])
                for name in (
                    "kv_bytes",
                    "device_bytes",
                    "device_peak_bytes",
                    "device_reserved_bytes",
                    "device_fragmented_bytes",
                    "process_bytes",
                )
            ),
        )
        for each in good(figures, "turns", "turn")
    )
    headings = ("turn", "KV MiB", "in use", "peak", "reserved", "fragmented", "process")
    return _table(headings, rows)


def _times(figures: _Figures) -> Iterator[str]:
    recorded = [
        ("recorded", each["turns"], each["tokens"], each["seconds"], "")
        for each in good(figures, "turns", "recorded")
    ]
    retraced = [
        ("retraced", "", each["tokens"], each["seconds"], each["verdict"])
        for each in good(figures, "turns", "retrace")
    ]
    headings = ("", "turns", "tokens", "seconds", "verdict")
    return _table(headings, iter([*recorded, *retraced]))


def _steps(figures: _Figures) -> Iterator[str]:
    names = (
        "tokentape_ms",
        "generate_ms",
        "tokentape_least_ms",
        "generate_least_ms",
        "generate_over_tokentape",
        "same_tokens",
    )
    rows = (
        (each["shape"], each["sampler"], *(each[name] for name in names))
        for section in ("speed", "memory")
        for each in good(figures, section, "step")
    )
    headings = ("model", "sampler", "ms a token", "`generate`", "least", "least of `generate`")
    return _table((*headings, "`generate` / ours", "same tokens"), rows)


def _recording(figures: _Figures) -> Iterator[str]:
    names = ("step_ms", "record_ms", "record_share", "record_alone_ms", "measure_alone_ms")
    rows = (
        (each["shape"], *(each[name] for name in names))
        for section in ("speed", "memory")
        for each in good(figures, section, "decode")
    )
    headings = ("model", "step, ms", "recording", "share", "recording alone", "measuring alone")
    return _table(headings, rows)


def _memory(figures: _Figures) -> Iterator[str]:
    plans = list(good(figures, "memory", "plan"))
    rows: list[Sequence[Any]] = [
        ("weights", "", _mib(plans[0]["weights_bytes"]), _mib(each["weights_bytes"]))
        for each in good(figures, "memory", "weights")
        if plans
    ]
    planned_turns = {each["case"]: each["turns"] for each in plans}
    for each in good(figures, "memory", "measured"):
        for plan, turn in zip(planned_turns.get(each["case"], ()), each["turns"], strict=False):
            peak = turn.get("peak_bytes", turn.get("transient_bytes"))
            rows.append(
                (
                    each["case"],
                    turn["prompt_tokens"],
                    _mib(plan["kv_bytes"] + plan["transient_bytes"]),
                    _mib(peak),
                    _mib(turn["kv_bytes"]),
                    _mib(turn.get("reserved_bytes")),
                    _mib(turn.get("fragmented_bytes")),
                    _mib(turn.get("driver_bytes")),
                )
            )
    width = 8
    headings = ("case", "prompt", "planned MiB", "measured", "KV stored", "reserved")
    return _table(
        (*headings, "fragmented", "driver"),
        ((*row, *("",) * (width - len(row))) for row in rows),
    )


def _draws(figures: _Figures) -> Iterator[str]:
    rows = (
        (
            each["vocabulary"],
            each["depends_on_card"],
            f"`{each['first_noise_sha256'][:16]}`",
            f"`{each['tokens_sha256'][:16]}`",
            f"`{each['end_state_sha256'][:16]}`",
        )
        for each in good(figures, "draws", "draws")
    )
    headings = ("vocabulary", "more than one wave", "first noise", "64 tokens", "end state")
    return _table(headings, rows)


TABLES: Mapping[str, Callable[[_Figures], Iterator[str]]] = {
    "Replays of seven families": _parity,
    "Retraces elsewhere and under other flags": _retraces,
    "Faults": _faults,
    "Deterministic kernels": _deterministic,
    "Twenty turns": _times,
    "Memory of twenty turns": _turns,
    "Speed of a step": _steps,
    "Recording a token": _recording,
    "Memory planned and measured": _memory,
    "Draws of seed 0": _draws,
    "Environment": _environment,
}
"""Title and lines of each table, in the order of the page."""
