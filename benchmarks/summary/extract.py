"""The comparisons in the JSON files of the commands, a function for each command."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.generation.prefill import SYSTEM_TOKENS, TURNS
from benchmarks.peers import measure as engines
from benchmarks.start import measure as starting
from benchmarks.summary.comparison import Comparison, compare, figure

_Figures = Mapping[str, Any]


def decode(figures: _Figures) -> Iterator[Comparison]:
    """Yield a step against `generate`, and recording's share of it."""
    for context in figures["decode"]:
        for each in context["comparisons"]:
            name = f"{each['context_tokens']:,} tokens of context"
            what = f"step, {name}, {each['sampler']}"
            yield compare(what, "ms", each["our_ms"], "generate", each["their_ms"])
        cost = context["cost"]
        share = 100.0 * cost["record_ms"] / cost["step_ms"]
        yield figure(f"share of recording in a step, {name}", "%", [share])


def peers(figures: _Figures) -> Iterator[Comparison]:
    """Yield the step of one sequence against each other engine."""
    measured = figures["peers"]
    for peer in (
        engines.FRESH,
        engines.LOOP,
        engines.FLOAT32,
        engines.Q4_1,
        engines.WEIGHTS,
    ):
        yield _against(measured, "step of one sequence", "ms", engines.ALONE, peer)


def batch(figures: _Figures) -> Iterator[Comparison]:
    """Yield the step of several sequences, in times of one alone, against each other engine."""
    for count, measured in figures["decode"].items():
        for peer in (engines.PADDED, engines.CONTINUOUS, engines.FLOAT32):
            what = f"step of {count} at once"
            yield _against(measured, what, "× one alone", engines.OURS, peer)
    if "plans" in figures:
        yield _plans(figures["plans"])


def _plans(measured: _Figures) -> Comparison:
    what, unit = "the demo with 8 seeds, prefills included", "tokens/s"
    ours, alone = (
        measured["engines"].get(name, {}).get("whole_per_s", [])
        for name in (engines.OURS, engines.ALONE)
    )
    if ours:
        return compare(what, unit, ours, "one after the other", alone, higher_is_better=True)
    note = measured["missing"].get(engines.OURS, "")
    return Comparison(what=what, unit=unit, ours=None, peer="one after the other", note=note)


def conversation(figures: _Figures) -> Iterator[Comparison]:
    """Yield the whole conversation, and the start from a stored system prompt."""
    measured = figures["conversation"]
    ours = measured["ours"]["seconds"]
    for key, peer in (
        ("reused", "generate, cache reused by hand"),
        ("fresh", "generate, no cache"),
    ):
        theirs = measured[key]["seconds"]
        if theirs:
            what = f"{len(theirs)} turns behind 6,287 tokens"
            yield compare(what, "s", [sum(ours[: len(theirs)])], peer, [sum(theirs)])
    computed, restored = (each["seconds"] for each in figures["restart"])
    yield compare("a stored system prompt", "s", [restored], "computing it", [computed])


def prefill(figures: _Figures) -> Iterator[Comparison]:
    """Yield the tokens forwarded, and the memory after the cached system prompt."""
    *others, whole = figures["forwarded"]
    for each in others:
        what = f"tokens forwarded over {TURNS} turns"
        yield compare(what, "tokens", [whole["total"]], each["strategy"], [each["total"]])
    taken = {}
    for each in figures["memory"]:
        prefill = each["prefill"]
        if prefill["cached_tokens"] == SYSTEM_TOKENS:
            taken[prefill["attention"], bool(prefill["chunk_tokens"])] = each["transient_bytes"]
    ours = taken["sdpa", True] / 1e9
    for key, peer in ((("eager", False), "eager attention"), (("sdpa", False), "one forward")):
        yield compare("transient memory of a prefill", "GB", [ours], peer, [taken[key] / 1e9])


def store(figures: _Figures) -> Iterator[Comparison]:
    """Yield the time and the space of a token against every other recorder."""
    tokens, rounds = figures["store"]["tokens"], figures["store"]["rounds"]
    live, sealed = rounds["tokentape, live"], rounds["tokentape, sealed, top-5"]
    peers = [name for name in rounds if not name.startswith("tokentape")]
    for peer in peers:
        theirs = _times(rounds[peer], tokens)
        yield compare("record a token", "ms", _times(live, tokens), peer, theirs)
    for what, ours in (("live store", live), ("sealed", sealed)):
        for peer in peers:
            mine, theirs = (_bytes(each, tokens) for each in (ours, rounds[peer]))
            yield compare(f"space of a token, {what}", "bytes", mine, peer, theirs)
    for name, reason in figures["store"]["missing"].items():
        yield Comparison(what="record a token", unit="ms", ours=None, peer=name, note=reason)
    yield from _frames(figures.get("frames", ()))


def _frames(frames: Sequence[_Figures]) -> Iterator[Comparison]:
    seconds = {each["source"]: each["seconds"] for each in frames}
    bare = next((value for name, value in seconds.items() if name.startswith("bare")), None)
    for name, source in (("Parquet", "tokens_df, sealed Parquet"), ("SQLite", "tokens_df, SQLite")):
        if bare is not None and source in seconds:
            what = f"{frames[0]['rows']:,} tokens into pandas, {name}"
            yield compare(what, "s", seconds[source], "bare pd.read_parquet", bare)


def replay(figures: _Figures) -> Iterator[Comparison]:
    """Yield verifying and retracing against generating."""
    if "replay" in figures:
        measured = figures["replay"]
        turns = measured["turns"]
        verified = [median(measured["verifications_s"])]
        peers = {"regenerating them": "regenerated_s", "recording them": "generated_s"}
        for peer, key in peers.items():
            theirs = [sum(each[key] for each in turns)]
            yield compare(f"verify {len(turns)} turns", "s", verified, peer, theirs)
    if "retrace" in figures:
        measured = figures["retrace"]
        what = f"retrace 20 turns in {measured['dtype']}"
        theirs = measured["generated_s"]
        yield compare(what, "s", measured["retraced_s"], "generating them", theirs)


def bulk(figures: _Figures) -> Iterator[Comparison]:
    """Yield verifying many small tapes in bulk against a loop that verifies one by one."""
    measured = figures["bulk"]
    theirs = [1000.0 * each for each in measured["one_by_one_s"]]
    processes = f"{measured['jobs']} processes"
    for how, key in (("one process", "in_bulk_s"), (processes, "with_jobs_s")):
        ours = [1000.0 * measured[key]] * len(theirs)
        yield compare(f"verify a small tape in bulk, {how}", "ms", ours, "one by one", theirs)


def start(figures: _Figures) -> Iterator[Comparison]:
    """Yield the commands without a model against an import, and loading against GGUF."""
    commands = dict(figures["commands"])
    bare = commands.pop(starting.BARE)
    for name, seconds in commands.items():
        yield compare(name, "s", seconds, "importing SQLAlchemy", bare)
    ours, theirs = (figures["loading"][name] for name in (starting.OURS, starting.FROM_GGUF))
    yield compare("load the demo model", "s", ours, starting.FROM_GGUF, theirs)


def watch(figures: _Figures) -> Iterator[Comparison]:
    """Yield a step with an activation monitor against a plain one."""
    steps = figures["watch"]["step_ms"]
    for mode in ("compact", "full"):
        what = f"step with a monitor on four layers, {mode}"
        yield compare(what, "ms", steps[mode], "without it", steps["plain"])


def nothing(figures: _Figures) -> Iterator[Comparison]:
    """Yield nothing: the table of the command says it all."""
    yield from ()


def _against(
    measured: _Figures, what: str, unit: str, ours: str, peer: str, key: str = "step_ms"
) -> Comparison:
    """Return the steps of two engines of the same rounds, or why they cannot be compared."""
    alone = measured["engines"].get(engines.ALONE, {}).get(key, [])
    mine, theirs = (
        _steps(measured["engines"].get(name, {}).get(key, []), alone, unit) for name in (ours, peer)
    )
    if mine and theirs:
        return compare(what, unit, mine, peer, theirs)
    reasons = [
        measured["missing"].get(name, "a sequence ended before another began")
        for name, values in ((ours, mine), (peer, theirs))
        if not values
    ]
    return Comparison(
        what=what,
        unit=unit,
        ours=figure(what, unit, mine).ours if mine else None,
        peer=peer,
        theirs=figure(what, unit, theirs).ours if theirs else None,
        note="; ".join(dict.fromkeys(reasons)),
    )


def _steps(steps: Sequence[float | None], alone: Sequence[float | None], unit: str) -> list[float]:
    """Return steps in milliseconds, or in times of one alone; empty unless all are known."""
    if unit == "ms":
        alone = [1.0] * len(steps)
    pairs = list(zip(steps, alone, strict=False))
    known = [step / one for step, one in pairs if step is not None and one is not None]
    return known if len(known) == len(steps) else []


def _times(results: Sequence[_Figures], tokens: int) -> list[float]:
    return [each["seconds"] * 1000.0 / tokens for each in results]


def _bytes(results: Sequence[_Figures], tokens: int) -> list[float]:
    return [each["all_bytes"] / tokens for each in results]
