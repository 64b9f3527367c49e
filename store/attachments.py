"""Verdicts of replays and noise floors: annotations of a run, outside its seal chain.

A run is the same run with them and without. Their bodies are plain JSON values. Every store holds
them as canonical JSON with a sha256 over all fields, so one that is copied twice is stored once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from tokentape.recorder.codec import dump_canonical
from tokentape.recorder.limits import load_json
from tokentape.store.errors import StoreError

NAME_CHARS = 80
"""The greatest length of the name of a replay, a verdict or a version."""

_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVerdict:
    """The result of one replay of a run. Raise StoreError for values that JSON does not have."""

    run_id: str
    at_us: int
    """When the replay ended, in microseconds since 1970 UTC."""
    replay: str
    """Which replay: `verify`, `retrace`, `regenerate` …"""
    verdict: str
    report: Mapping[str, Any]
    """The whole report as JSON values: tuples become lists, NaN and infinity become None."""

    def __post_init__(self) -> None:
        _normalise(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFloor:
    """A noise floor measured for a run. Raise StoreError for values that JSON does not have."""

    run_id: str
    at_us: int
    """When it was measured, in microseconds since 1970 UTC."""
    version: str
    """The name of the floor, which verdicts refer to."""
    floor: Mapping[str, Any]
    """The floor as JSON values: NaN and infinity become None."""

    def __post_init__(self) -> None:
        _normalise(self)


Attachment = StoredVerdict | StoredFloor
K = TypeVar("K", StoredVerdict, StoredFloor)

TABLES: dict[type[Attachment], str] = {StoredVerdict: "verdicts", StoredFloor: "floors"}
BODIES: dict[type[Attachment], str] = {StoredVerdict: "report", StoredFloor: "floor"}


def row_of(attachment: Attachment) -> dict[str, Any]:
    """Return the row of an attachment by column; see `store.arrow.VERDICTS` and `FLOORS`."""
    body = BODIES[type(attachment)]
    fields_ = {name: getattr(attachment, name) for name in _names(type(attachment)) if name != body}
    text = dump_canonical(getattr(attachment, body))
    sha256 = hashlib.sha256((dump_canonical(list(fields_.values())) + text).encode()).hexdigest()
    figures = figures_of(attachment.report) if isinstance(attachment, StoredVerdict) else {}
    return fields_ | figures | {"sha256": sha256, body: text}


def attachment_of(kind: type[K], run_id: str, row: Mapping[str, Any], where: str) -> K:
    """Return the attachment that a row was made from. Raise StoreError if the row was altered."""
    damaged = StoreError(f"{where}: a row of {TABLES[kind]} of run {run_id} was altered")
    try:
        body = load_json(row[BODIES[kind]])
        attachment = kind(
            run_id=run_id, **{name: row[name] for name in _names(kind)} | {BODIES[kind]: body}
        )
    except (RecursionError, StoreError, TypeError, ValueError):
        raise damaged from None
    made = row_of(attachment)
    # The figures, too, since they are read without the report.
    if any(made[name] != value for name, value in row.items() if name in made):
        raise damaged
    return attachment


def figures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of `verdicts_df` that come from a report.

    A missing value, and one of another type, is None. U+FFFD replaces NUL, which PostgreSQL does
    not store. The figures of a report never change with the version: stored ones are compared.
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


def _normalise(attachment: Attachment) -> None:
    """Check the fields, and replace the body by plain JSON values."""
    what = f"a row of {TABLES[type(attachment)]} of run {attachment.run_id!r} cannot be stored"
    at_us, body = attachment.at_us, BODIES[type(attachment)]
    if not isinstance(at_us, int) or isinstance(at_us, bool) or not 0 <= at_us <= _INT64_MAX:
        raise StoreError(f"{what}: at_us is {at_us!r}")
    for name in set(_names(type(attachment))) - {"at_us", body}:
        value = getattr(attachment, name)
        if not (isinstance(value, str) and value.isprintable() and 0 < len(value) <= NAME_CHARS):
            raise StoreError(
                f"{what}: its {name} must be printable text of 1 to {NAME_CHARS} characters"
            )
        object.__setattr__(attachment, name, str.__str__(value))
    given = getattr(attachment, body)
    if not isinstance(given, Mapping):
        raise StoreError(f"{what}: its {body} is not a mapping")
    try:
        plain = json.loads(json.dumps(dict(given)), parse_constant=lambda _: None)
        dump_canonical(plain).encode()
    except (RecursionError, TypeError, ValueError) as error:
        raise StoreError(f"{what}: its {body} is not JSON: {error}") from None
    object.__setattr__(attachment, body, plain)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value.replace("\x00", "\ufffd") if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        # SQLite has no minus zero.
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
