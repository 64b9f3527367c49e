"""How a run is named: by its id, the beginning of one, its name, or `@last`."""

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from tokentape.recorder.escapes import visible
from tokentape.recorder.projections import RunSummary
from tokentape.store.errors import AmbiguousRunError, NoSuchRunError, UnknownRunError

CANDIDATES_MAX = 10
"""The greatest number of candidates of an ambiguous name that an error lists."""

_NAMES_COMPARED_MAX = 2_000
_NAME_CHARS_MAX = 200
_LAST = re.compile(r"@last(?:~([0-9]{1,9}))?")


def find_run_id(
    wanted: str,
    ids: Iterable[str],
    summaries: Callable[[], Sequence[RunSummary]],
    where: str,
) -> str:
    """Return the id of the run that `wanted` names.

    `ids` are the ids that begin with it, `summaries` returns all runs, the oldest first. A whole id
    comes before the beginning of one, and that before the name of a run; then `@last` is the newest
    run and `@last~2` the second before it. Raise NoSuchRunError, with the nearest names, if there
    is no such run; AmbiguousRunError, with a line per run, if there are several.
    """
    found = sorted(ids)
    if wanted in found or (wanted and len(found) == 1):
        return wanted if wanted in found else found[0]
    runs = summaries() if wanted else []
    named = [each for each in runs if each.name == wanted]
    if len(named) == 1:
        return named[0].run_id
    if named:
        raise ambiguous(
            f"{len(named)} runs in {where} are named {wanted!r}: give the id of one", named
        )
    if wanted and found:
        begun = [each for each in runs if each.run_id in set(found)]
        raise ambiguous(
            f"{len(found)} runs in {where} begin with {wanted!r}: give more of the id", begun
        )
    last = _LAST.fullmatch(wanted)
    if last:
        before = int(last[1] or 0)
        if before < len(runs):
            return runs[-1 - before].run_id
        raise NoSuchRunError(f"{where} has no run {wanted!r}: it has {len(runs)} runs")
    nearest = _nearest(wanted, runs)
    raise UnknownRunError(
        f"{where} has no run {wanted!r}: {nearest}`tokentape list` shows its runs"
    )


def short_ids(run_ids: Sequence[str], every: Iterable[str], *, least: int) -> list[str]:
    """Return the beginnings of ids, of `least` characters or more, that no other id begins with.

    `every` are the ids of the store, with those of `run_ids`.
    """
    ordered = sorted(every)
    lengths = dict.fromkeys(ordered, least)
    for one, other in itertools.pairwise(ordered):
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
        shared = sum(1 for _ in same)
        lengths[one] = max(lengths[one], shared + 1)
        lengths[other] = max(lengths[other], shared + 1)
    return [each[: lengths[each]] for each in run_ids]


def describe_run(run: RunSummary) -> str:
    """Return a run in a line: id, time, name, model and status."""
    texts = (run.run_id, local_time(run.started_at_us), run.name, run.model, run.status)
    return "  ".join(visible(str(each)[:_NAME_CHARS_MAX]) for each in texts if each)


def local_time(at_us: int) -> str:
    """Return microseconds since 1970 UTC as local time to the minute; `?` if damaged."""
    try:
        return datetime.fromtimestamp(at_us / 1_000_000).strftime("%Y-%m-%d %H:%M")
    except (OSError, OverflowError, TypeError, ValueError):
        return "?"


def ambiguous(message: str, candidates: Sequence[RunSummary]) -> AmbiguousRunError:
    """Return an error that lists the newest of the candidates, a line each."""
    older = len(candidates) - CANDIDATES_MAX
    lines = [f"({older:,} older ones)"] if older > 0 else []
    lines += [describe_run(each) for each in candidates[-CANDIDATES_MAX:]]
    return AmbiguousRunError(message, *lines)


def _nearest(wanted: str, runs: Sequence[RunSummary]) -> str:
    """Return a hint at the names most like an unknown one, or an empty string."""
    names = dict.fromkeys(each.name for each in runs[-_NAMES_COMPARED_MAX:])
    short = [name for name in names if isinstance(name, str) and 0 < len(name) <= _NAME_CHARS_MAX]
    near = difflib.get_close_matches(wanted[:_NAME_CHARS_MAX], short, n=3)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""
