"""What every store can hold: the check of an event before it is recorded."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from tokentape.recorder.clock import LAST_US, is_recordable
from tokentape.recorder.codec import encode_body, kind_of
from tokentape.recorder.damage import DECODING_ERRORS, describe_damage
from tokentape.recorder.errors import RecordingError
from tokentape.recorder.events import Event, TokenSampled
from tokentape.recorder.field_types import check_fields
from tokentape.recorder.projections.summary import RunSummary

_INT64 = range(-(2**63), 2**63)
_LONGEST = {"parent_run_id": 36, "status": 16}
"""The lengths of the columns of `runs` that PostgreSQL limits."""


def storable(event: Event) -> tuple[Event, str | None]:
    """Return an event that every store can hold, and its body; None for a `TokenSampled`.

    UTF-8 has no lone surrogates: each becomes its escape as text, `\\ud800` for U+D800. Raise
    RecordingError with the name of the field for a value that JSON does not have, such as NaN,
    infinity or bytes, or that is not of the field's type.
    """
    if isinstance(event, TokenSampled):
        return event, None
    try:
        check_fields(type(event), {name: getattr(event, name) for name in _names(event)})
        body = encode_body(event)
        if not body.isascii():
            body.encode()
        return event, body
    except UnicodeEncodeError:
        escaped = {name: _escaped(getattr(event, name)) for name in _names(event)}
        return storable(replace(event, **escaped))
    except DECODING_ERRORS as error:
        raise RecordingError(f"a {kind_of(event)} cannot be recorded: {_why(event, error)}") from (
            error
        )


def check_time(at_us: int) -> None:
    """Raise RecordingError for a time that is not within the years 1970 to 9999."""
    if not is_recordable(at_us):
        raise RecordingError(
            f"the clock gives {at_us!r} microseconds since 1970, and 0 to {LAST_US} can be recorded"
        )


def check_summary(summary: RunSummary) -> None:
    """Raise RecordingError for a summary that the row of a run cannot hold."""
    for name in _names(summary):
        value = getattr(summary, name)
        if isinstance(value, int) and value not in _INT64:
            raise RecordingError(f"the {name} of the run, {value}, do not fit into 64 bits")
        if isinstance(value, str):
            _check_text(name, value)


def check_run_id(run_id: str) -> None:
    """Raise RecordingError for an id with a lone surrogate."""
    _check_utf8("run_id", run_id)


def _check_text(name: str, text: str) -> None:
    _check_utf8(name, text)
    if "\0" in text and name != "run_id":
        raise RecordingError(f"the {name} of the run contains NUL, which PostgreSQL cannot store")
    if len(text) > _LONGEST.get(name, len(text)):
        raise RecordingError(f"the {name} of the run is longer than {_LONGEST[name]} characters")


def _check_utf8(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecordingError(
            f"the {name} of the run has a lone surrogate, which UTF-8 cannot encode: {text!a}"
        ) from None


def _names(value: Any) -> list[str]:
    return [field.name for field in fields(value)]


def _escaped(value: Any) -> Any:
    """Return a value with every lone surrogate in its texts as an escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_escaped(name): _escaped(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_escaped, value))
    return value


def _why(event: Event, error: Exception) -> str:
    """Return the fault, with the name of the field that has it."""
    for name in _names(event):
        try:
            json.dumps(getattr(event, name), sort_keys=True, allow_nan=False)
        except DECODING_ERRORS as found:
            return f"its {name} is not JSON: {describe_damage(found)}"
    return describe_damage(error)
