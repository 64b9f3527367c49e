"""Which payload a record points to."""

import json

from recorder import Record, RecordingError
from recorder.events import ToolReturned


def payload_of(record: Record) -> str:
    """The sha256 of what a tool returned in full; empty for any other event.

    It is empty, too, for a payload that was redacted before it was kept. Raises RecordingError.
    """
    if record.kind != ToolReturned.__name__ or not isinstance(record.body, str):
        return ""
    try:
        return str(json.loads(record.body)["payload_sha256"])
    except (KeyError, TypeError, ValueError):
        raise RecordingError(f"event {record.seq}, a {record.kind}, names no payload") from None
