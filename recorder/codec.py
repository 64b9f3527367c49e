"""Encode events as records, and decode them.

A body is canonical JSON: sorted keys, no spaces, UTF-8, so that equal events are equal bytes. The
body of a sampled token is a mapping of its fields, because stores have typed columns for them.
"""

import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import NewerRecordingError, RecordingError
from tokentape.recorder.events import EVENT_CLASSES, Event, TokenSampled
from tokentape.recorder.record import Record
from tokentape.recorder.upcasters import UPCASTERS, check_chain, upcast

check_chain({kind: cls.version for kind, cls in EVENT_CLASSES.items()}, UPCASTERS)


def kind_of(event: Event) -> str:
    """Return the kind of an event: the name of its class."""
    return type(event).__name__


def encode(envelope: Envelope) -> Record:
    """Return the record of an event. Raise ValueError for NaN and infinity, which JSON lacks."""
    event = envelope.event
    body = _fields(event) if isinstance(event, TokenSampled) else encode_body(event)
    return Record(
        seq=envelope.seq,
        at_us=envelope.at_us,
        kind=kind_of(event),
        version=event.version,
        body=body,
        turn=envelope.turn,
        seal=envelope.seal,
    )


def decode(run_id: str, record: Record) -> Envelope:
    """Return the event of a record, upcast to today's version of its class.

    Raise NewerRecordingError for a kind or version that this tokentape does not know, and
    RecordingError for a body that is damaged.
    """
    try:
        if isinstance(record.body, str):
            event = decode_body(record.kind, record.version, record.body)
        else:
            event = decode_fields(record.kind, record.version, record.body)
        return Envelope(run_id, record.seq, record.at_us, event, record.turn, record.seal)
    except RecordingError as error:
        raise type(error)(f"run {run_id}, event {record.seq}: {error}") from None
    except (TypeError, ValueError) as error:
        raise RecordingError(f"run {run_id}, event {record.seq}: {error}") from None


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
    try:
        values = json.loads(body)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordingError(f"the body of a {kind} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise RecordingError(f"the body of a {kind} is not a JSON object")
    return decode_fields(kind, version, values)


def decode_fields(kind: str, version: int, values: Mapping[str, Any]) -> Event:
    """Return the event with these fields, lists made tuples. Raise as `decode` does."""
    cls = EVENT_CLASSES.get(kind)
    if cls is None or version > cls.version:
        raise NewerRecordingError(
            f"this tokentape does not know {kind} version {version}: upgrade tokentape to read it"
        )
    try:
        today = values if version == cls.version else upcast(kind, version, dict(values), UPCASTERS)
        tuples = {n: _tuples(today[n], hint) for n, hint in _TUPLES[kind].items() if n in today}
        return cls(**{**today, **tuples})
    except (KeyError, TypeError, ValueError) as error:
        raise RecordingError(f"the body of a {kind} is damaged: {error}") from None


def _fields(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in _NAMES[type(event)]}


def _tuples(value: Any, hint: Any) -> Any:
    """Return the value with tuples where the hint has them, at any depth: JSON has only lists."""
    if typing.get_origin(hint) is not tuple or not isinstance(value, list):
        return value
    inner = typing.get_args(hint)[0]
    return tuple(_tuples(each, inner) for each in value)


_hints: Callable[[type], dict[str, Any]] = typing.get_type_hints
# Made once: a run has a hundred thousand tokens of a dozen fields.
_NAMES: dict[type, tuple[str, ...]] = {
    cls: tuple(field.name for field in fields(cls)) for cls in EVENT_CLASSES.values()
}
_TUPLES: dict[str, dict[str, Any]] = {
    kind: {name: hint for name, hint in _hints(cls).items() if typing.get_origin(hint) is tuple}
    for kind, cls in EVENT_CLASSES.items()
}
