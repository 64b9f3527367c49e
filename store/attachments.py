"""Verdicts of replays, noise floors, and labels: annotations of a run, outside its seal chain.

A run is the same run with them and without. The bodies of verdicts and floors are plain JSON
values, which every store holds as canonical JSON. Each annotation has a sha256 over all its fields,
so one that is copied twice is stored once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from tokentape.recorder.codec import dump_canonical
from tokentape.recorder.escapes import visible
from tokentape.recorder.limits import load_json
from tokentape.store.errors import StoreError

NAME_CHARS = 80
"""The greatest length of the name of a replay, a verdict or a version."""

NOTE_CHARS = 10_000
"""The greatest length of a note."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLabel:
    """A tag that was added to a run or removed from it, or a note, which replaces the one before.

    Raise StoreError for a tag that is not one printable word without a comma, and for a note that
    is too long or has characters that cannot be seen.
    """

    run_id: str
    at_us: int
    """When it was added, in microseconds since 1970 UTC."""
    label: str
    """`tag`, `untag` or `note`."""
    text: str
    """The tag, or the note; an empty note removes the one before."""

    def __post_init__(self) -> None:
        _check_time(self)
        run = f"run {self.run_id}"
        if self.label not in ("tag", "untag", "note"):
            raise StoreError(f"{run}: a label is tag, untag or note, not {self.label!r}")
        if not isinstance(self.text, str):
            raise StoreError(f"{run}: a {self.label} is text, not {type(self.text).__name__}")
        (_check_note if self.label == "note" else _check_tag)(self.text, run)


Attachment = StoredVerdict | StoredFloor | StoredLabel
K = TypeVar("K", StoredVerdict, StoredFloor, StoredLabel)

TABLES: dict[type[Attachment], str] = {
    StoredVerdict: "verdicts",
    StoredFloor: "floors",
    StoredLabel: "run_labels",
}
BODIES: dict[type[Attachment], str] = {StoredVerdict: "report", StoredFloor: "floor"}
"""The field that holds JSON values; a label has none."""


def row_of(attachment: Attachment) -> dict[str, Any]:
    """Return the row of an attachment by column; see `store.arrow.VERDICTS` and `FLOORS`."""
    body = BODIES.get(type(attachment))
    fields_ = {name: getattr(attachment, name) for name in _names(type(attachment)) if name != body}
    text = "" if body is None else dump_canonical(getattr(attachment, body))
    sha256 = hashlib.sha256((dump_canonical(list(fields_.values())) + text).encode()).hexdigest()
    figures = figures_of(attachment.report) if isinstance(attachment, StoredVerdict) else {}
    return fields_ | figures | {"sha256": sha256} | ({} if body is None else {body: text})


def attachment_of(kind: type[K], run_id: str, row: Mapping[str, Any], where: str) -> K:
    """Return the attachment that a row was made from. Raise StoreError if the row was altered."""
    damaged = StoreError(f"{where}: a row of {TABLES[kind]} of run {run_id} was altered")
    try:
        values = {name: row[name] for name in _names(kind)}
        if kind in BODIES:
            values[BODIES[kind]] = load_json(row[BODIES[kind]])
        attachment = kind(run_id=run_id, **values)
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


def _what(attachment: Attachment) -> str:
    return f"a row of {TABLES[type(attachment)]} of run {attachment.run_id!r} cannot be stored"


def _check_time(attachment: Attachment) -> None:
    at_us = attachment.at_us
    if not isinstance(at_us, int) or isinstance(at_us, bool) or not 0 <= at_us <= _INT64_MAX:
        raise StoreError(f"{_what(attachment)}: at_us is {at_us!r}")


def _check_tag(text: str, run: str) -> None:
    is_word = text.isprintable() and not any(each.isspace() or each == "," for each in text)
    if not is_word or not 0 < len(text) <= NAME_CHARS:
        raise StoreError(
            f"{run}: a tag is one word of 1 to {NAME_CHARS} printable characters, without a "
            f"comma, not {visible(text[: NAME_CHARS + 1])!r}"
        )


def _check_note(text: str, run: str) -> None:
    if len(text) > NOTE_CHARS:
        raise StoreError(f"{run}: a note has at most {NOTE_CHARS:,} characters, not {len(text):,}")
    unseen = next((each for each in text if not (each.isprintable() or each in "\n\t")), None)
    if unseen is not None:
        raise StoreError(f"{run}: a note has printable characters and line ends, not {unseen!r}")


def _normalise(attachment: StoredVerdict | StoredFloor) -> None:
    """Check the fields, and replace the body by plain JSON values."""
    _check_time(attachment)
    what, body = _what(attachment), BODIES[type(attachment)]
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
