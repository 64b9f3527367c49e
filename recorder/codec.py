"""Events to JSON and back.

A body is canonical JSON: sorted keys, no spaces, UTF-8, so that equal events are equal bytes.
"""

import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from recorder.errors import NewerRecordingError, RecordingError
from recorder.events import Event

CLASSES: dict[str, type[Event]] = {cls.__name__: cls for cls in typing.get_args(Event)}


def kind_of(event: Event) -> str:
    return type(event).__name__


def encode_body(event: Event) -> str:
    """The event's fields as canonical JSON.

    Raises ValueError for a number that JSON has no word for (NaN, infinity).
    """
    body = {field.name: getattr(event, field.name) for field in fields(event)}
    return dump_canonical(body)


def dump_canonical(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def decode_body(kind: str, version: int, body: str) -> Event:
    """The event that `encode_body` wrote.

    Raises NewerRecordingError for a kind or version that this tokentape does not know, and
    RecordingError for a body that is not such an event.
    """
    try:
        values = json.loads(body)
    except json.JSONDecodeError as error:
        raise RecordingError(f"the body of a {kind} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise RecordingError(f"the body of a {kind} is not a JSON object")
    return decode_fields(kind, version, values)


def decode_fields(kind: str, version: int, values: Mapping[str, Any]) -> Event:
    """An event from its fields, with lists where it has tuples. Raises as `decode_body` does."""
    cls = CLASSES.get(kind)
    if cls is None or version > cls.version:
        raise NewerRecordingError(
            f"this tokentape does not know {kind} version {version}: upgrade tokentape to read it"
        )
    hints = _HINTS[kind]
    try:
        return cls(**{name: _tuples(value, hints.get(name)) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise RecordingError(f"the body of a {kind} is damaged: {error}") from None


def _tuples(value: Any, hint: Any) -> Any:
    """Tuples where the hint says so, down to any depth: JSON knows only lists."""
    if typing.get_origin(hint) is not tuple or not isinstance(value, list):
        return value
    inner = typing.get_args(hint)[0]
    return tuple(_tuples(each, inner) for each in value)


_hints: Callable[[type], dict[str, Any]] = typing.get_type_hints
_HINTS: dict[str, dict[str, Any]] = {kind: _hints(cls) for kind, cls in CLASSES.items()}
