"""Which blob a record refers to."""

from tokentape.recorder import Record, RecordingError
from tokentape.recorder.events import EVENT_CLASSES
from tokentape.recorder.limits import load_json

PAYLOAD_KINDS = frozenset(kind for kind, cls in EVENT_CLASSES.items() if cls.traits.payload)
"""The kinds of events that refer to a blob; triggers of the database keep these blobs."""


def payload_of(record: Record) -> str:
    """Return the sha256 of the blob that a record refers to. Raise as `payload_named`."""
    if record.kind not in PAYLOAD_KINDS or not isinstance(record.body, str):
        return ""
    try:
        return payload_named(record.kind, record.body)
    except RecordingError:
        raise RecordingError(f"event {record.seq}, a {record.kind}, names no payload") from None


def payload_named(kind: str, body: str) -> str:
    """Return the sha256 of the blob that a recorded body refers to.

    It is empty if the event refers to none, or if a redactor did not let the blob be stored. Raise
    RecordingError for a damaged body.
    """
    if kind not in PAYLOAD_KINDS:
        return ""
    try:
        return EVENT_CLASSES[kind].payload_sha256_of(load_json(body))
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RecordingError(f"a {kind} names no payload: {error!r}") from None
