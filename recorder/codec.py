"""Events to records and back.

A body is canonical JSON: sorted keys, no spaces, UTF-8, so that equal events are equal bytes. A
sampled token is kept as its fields: stores have typed columns for them.
"""

import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from tokentape.recorder.envelope import Envelope
from tokentape.recorder.errors import NewerRecordingError, RecordingError
from tokentape.recorder.events import Event, TokenSampled
from tokentape.recorder.record import Record
from tokentape.recorder.upcasters import UPCASTERS, upcast, validate_chain

CLASSES: dict[str, type[Event]] = {cls.__name__: cls for cls in typing.get_args(Event)}
TOKEN_KIND = TokenSampled.__name__

validate_chain({kind: cls.version for kind, cls in CLASSES.items()}, UPCASTERS)


def kind_of(event: Event) -> str:
    return type(event).__name__


def encode(envelope: Envelope) -> Record:
    """Raises ValueError for a number that JSON has no word for (NaN, infinity)."""
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
    """Raises NewerRecordingError for a kind or version that this tokentape does not know, and
    RecordingError for a body that is not such an event."""
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
    """The event's fields as canonical JSON. Raises as `encode` does."""
    return dump_canonical(_fields(event))


def _fields(event: Event) -> dict[str, Any]:
    return {field.name: getattr(event, field.name) for field in fields(event)}


def dump_canonical(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def decode_body(kind: str, version: int, body: str) -> Event:
    """The event that `encode_body` wrote. Raises as `decode` does."""
    try:
        values = json.loads(body)
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordingError(f"the body of a {kind} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise RecordingError(f"the body of a {kind} is not a JSON object")
    return decode_fields(kind, version, values)


def decode_fields(kind: str, version: int, values: Mapping[str, Any]) -> Event:
    """An event from its fields, with lists where it has tuples. Raises as `decode` does."""
    cls = CLASSES.get(kind)
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


def _tuples(value: Any, hint: Any) -> Any:
    """Tuples where the hint says so, down to any depth: JSON knows only lists."""
    if typing.get_origin(hint) is not tuple or not isinstance(value, list):
        return value
    inner = typing.get_args(hint)[0]
    return tuple(_tuples(each, inner) for each in value)


_hints: Callable[[type], dict[str, Any]] = typing.get_type_hints
# Only these are looked at: a run has a hundred thousand tokens of a dozen fields.
_TUPLES: dict[str, dict[str, Any]] = {
    kind: {name: hint for name, hint in _hints(cls).items() if typing.get_origin(hint) is tuple}
    for kind, cls in CLASSES.items()
}
