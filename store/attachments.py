"""Verdicts of replays and noise floors, which are kept beside a recording, never inside it.

They are no events: no seal covers them, and a run is the same run with them and without. Their
bodies are plain JSON values. Every store keeps them as canonical JSON under a sum of all that is
kept, so that whatever is copied twice is there once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from tokentape.recorder.codec import dump_canonical
from tokentape.store.errors import StoreError

NAME_CHARS = 80
"""How long the name of a replay, a verdict or a version may be."""

_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVerdict:
    """What a replay of a run has found: its verdict, and the whole report.

    `replay` says which one it was, such as `verify` or `regenerate`. `at_us` is when, in
    whole microseconds since 1970, UTC. `report` is made plain as JSON has it:
    tuples become lists, and None stands for NaN and infinity. Raises StoreError for what JSON
    cannot say.
    """

    run_id: str
    at_us: int
    replay: str
    verdict: str
    report: Mapping[str, Any]

    def __post_init__(self) -> None:
        _settle(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFloor:
    """A noise floor as it was measured for a run. The rest is as in `StoredVerdict`."""

    run_id: str
    at_us: int
    version: str
    floor: Mapping[str, Any]

    def __post_init__(self) -> None:
        _settle(self)


Attachment = StoredVerdict | StoredFloor
K = TypeVar("K", StoredVerdict, StoredFloor)

TABLES: dict[type[Attachment], str] = {StoredVerdict: "verdicts", StoredFloor: "floors"}
BODIES: dict[type[Attachment], str] = {StoredVerdict: "report", StoredFloor: "floor"}


def row_of(kept: Attachment) -> dict[str, Any]:
    """The values of its row in any store, by column; see `store.arrow.VERDICTS` and `FLOORS`."""
    body = BODIES[type(kept)]
    place = {name: getattr(kept, name) for name in _names(type(kept)) if name != body}
    text = dump_canonical(getattr(kept, body))
    sha256 = hashlib.sha256((dump_canonical(list(place.values())) + text).encode()).hexdigest()
    figures = figures_of(kept.report) if isinstance(kept, StoredVerdict) else {}
    return place | figures | {"sha256": sha256, body: text}


def attachment_of(kind: type[K], run_id: str, row: Mapping[str, Any], where: str) -> K:
    """What a row was made from. Raises StoreError where the row is not as it was kept."""
    damaged = StoreError(f"{where}: a row of {TABLES[kind]} of run {run_id} is not as it was kept")
    try:
        body = json.loads(row[BODIES[kind]])
        kept = kind(
            run_id=run_id, **{name: row[name] for name in _names(kind)} | {BODIES[kind]: body}
        )
    except (RecursionError, StoreError, TypeError, ValueError):
        raise damaged from None
    if row_of(kept)["sha256"] != row["sha256"]:
        raise damaged
    return kept


def figures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What `verdicts_df` says of a report; None for what the report lacks, or has as another type.

    U+FFFD stands for NUL, which no text in PostgreSQL can hold.
    """
    listed, floor = report.get("turns"), report.get("floor")
    turns = [each if isinstance(each, dict) else {} for each in _list(listed)]
    return {
        "reason": _text(report.get("reason")),
        "model": _text(report.get("model")),
        "floor_version": _text(floor.get("version")) if isinstance(floor, dict) else None,
        "turns": len(turns) if isinstance(listed, list) else None,
        **{
            name: _total(each.get(name) for each in turns) if isinstance(listed, list) else None
            for name in ("tokens", "mismatches", "near_ties")
        },
        **{
            name: _largest(each.get(name) for each in turns)
            for name in ("logprob_difference_max", "margin_max")
        },
        "duration_us": _whole(report.get("duration_us")),
    }


def _names(kind: type[Attachment]) -> list[str]:
    return [field.name for field in fields(kind) if field.name != "run_id"]


def _settle(kept: Attachment) -> None:
    """Check the fields, and make the body plain."""
    what = f"a row of {TABLES[type(kept)]} of run {kept.run_id!r} cannot be kept"
    at_us, body = kept.at_us, BODIES[type(kept)]
    if not isinstance(at_us, int) or isinstance(at_us, bool) or not 0 <= at_us <= _INT64_MAX:
        raise StoreError(f"{what}: at_us is {at_us!r}")
    for name in set(_names(type(kept))) - {"at_us", body}:
        value = getattr(kept, name)
        if not (isinstance(value, str) and value.isprintable() and 0 < len(value) <= NAME_CHARS):
            raise StoreError(f"{what}: its {name} is no name of 1 to {NAME_CHARS} characters")
        object.__setattr__(kept, name, str.__str__(value))
    given = getattr(kept, body)
    if not isinstance(given, Mapping):
        raise StoreError(f"{what}: its {body} is no mapping")
    try:
        plain = json.loads(json.dumps(dict(given)), parse_constant=lambda _: None)
        dump_canonical(plain).encode()
    except (RecursionError, TypeError, ValueError) as error:
        raise StoreError(f"{what}: its {body} is not JSON: {error}") from None
    object.__setattr__(kept, body, plain)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value.replace("\x00", "\ufffd") if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        # SQLite knows no minus zero.
        return float(value) + 0.0
    except OverflowError:
        return None


def _whole(value: Any) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and abs(value) <= _INT64_MAX else None


def _total(values: Iterable[Any]) -> int | None:
    """None, too, where one of them is no whole number, or they are more than 64 bits hold."""
    total = 0
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        total += value
    return total if abs(total) <= _INT64_MAX else None


def _largest(values: Iterable[Any]) -> float | None:
    numbers = [number for number in map(_number, values) if number is not None]
    return max(numbers, default=None)
