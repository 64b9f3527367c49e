"""Encode events as records, and decode them.

A body is canonical JSON: sorted keys, no spaces, UTF-8, so that equal events are equal bytes. The
body of a sampled token is a mapping of its fields, because stores have typed columns for them.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tokentape.recorder.clock import is_recordable
from tokentape.recorder.damage import reporting_damage
from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import NewerRecordingError, RecordingError
from tokentape.recorder.events import EVENT_CLASSES, Event, TokenSampled
from tokentape.recorder.field_types import check_fields, with_tuples
from tokentape.recorder.limits import TooLargeError, load_json
from tokentape.recorder.record import Record
from tokentape.recorder.upcasters import UPCASTERS, check_chain, upcast

check_chain({kind: cls.version for kind, cls in EVENT_CLASSES.items()}, UPCASTERS)


def kind_of(event: Event) -> str:
    """Return the kind of an event: the name of its class."""
    return type(event).__name__


def encode(envelope: Envelope, body: str | None = None) -> Record:
    """Return the record of an event. Raise ValueError for NaN and infinity, which JSON lacks.

    `body` is what `encode_body` returns for the event, if it was called already.
    """
    event = envelope.event
    return Record(
        seq=envelope.seq,
        at_us=envelope.at_us,
        kind=kind_of(event),
        version=event.version,
        body=_fields(event) if isinstance(event, TokenSampled) else body or encode_body(event),
        turn=envelope.turn,
        seal=envelope.seal,
    )


def decode(run_id: str, record: Record) -> Envelope:
    """Return the event of a record, upcast to today's version of its class.

    Raise NewerRecordingError for a kind or version that this tokentape does not know, and
    RecordingError for a record that is damaged.
    """
    try:
        with reporting_damage(RecordingError):
            if not is_recordable(record.at_us):
                raise ValueError(f"its time is damaged: {record.at_us!r} microseconds since 1970")
            if isinstance(record.body, str):
                event = decode_body(record.kind, record.version, record.body)
            else:
                event = decode_fields(record.kind, record.version, record.body)
            return Envelope(run_id, record.seq, record.at_us, event, record.turn, record.seal)
    except RecordingError as error:
        raise type(error)(f"run {run_id}, event {record.seq}: {error}") from error


def encode_body(event: Event) -> str:
    """Return the event's fields as canonical JSON. Raise ValueError as `encode` does."""
    return dump_canonical(_fields(event))


def dump_canonical(value: Any) -> str:
    """Return a JSON value as canonical JSON. Raise ValueError for NaN and infinity."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def decode_body(kind: str, version: int, body: str) -> Event:
    """Return the event that `encode_body` encoded. Raise as `decode` does."""
    with reporting_damage(lambda why: RecordingError(f"the body of a {kind} is not JSON: {why}")):
        try:
            values = load_json(body)
        except TooLargeError as error:
            raise RecordingError(f"the body of a {kind} is too large: {error}") from None
    if not isinstance(values, dict):
        raise RecordingError(f"the body of a {kind} is not a JSON object")
    return decode_fields(kind, version, values)


def decode_fields(kind: str, version: int, values: Mapping[str, Any]) -> Event:
    """Return the event with these fields, lists made tuples. Raise as `decode` does."""
    cls = class_of(kind, version)
    with reporting_damage(lambda why: RecordingError(f"the body of a {kind} is damaged: {why}")):
        today = values if version == cls.version else upcast(kind, version, dict(values), UPCASTERS)
        made = with_tuples(cls, today)
        if unknown := made.keys() - {*_NAMES[cls]}:
            raise ValueError(f"it has no field {min(unknown)!r:.80}")
        check_fields(cls, made)
        return cls(**made)


def class_of(kind: str, version: int) -> type[Event]:
    """Return the class of a recorded event.

    Raise NewerRecordingError for a kind or version that this tokentape does not know, and
    RecordingError for a version that no tokentape wrote.
    """
    cls = EVENT_CLASSES.get(kind) if isinstance(kind, str) else None
    if isinstance(version, int) and version < 1:
        raise RecordingError(f"a {kind} has version {version}: versions count from one")
    if cls is None or not isinstance(version, int) or version > cls.version:
        raise NewerRecordingError(
            f"this tokentape does not know {kind} version {version}: upgrade tokentape to read it"
        )
    return cls


def _fields(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in _NAMES[type(event)]}


# Made once: a run has a hundred thousand tokens of a dozen fields.
_NAMES: dict[type, tuple[str, ...]] = {
    cls: tuple(field.name for field in fields(cls)) for cls in EVENT_CLASSES.values()
}
