"""Which payload a record points to."""

import json

from tokentape.recorder import Record, RecordingError
from tokentape.recorder.events import (
    InterventionApplied,
    InterventionRequested,
    RunStarted,
    ToolReturned,
)

_INTERVENTIONS = (InterventionRequested.__name__, InterventionApplied.__name__)
PAYLOAD_KINDS = (RunStarted.__name__, ToolReturned.__name__, *_INTERVENTIONS)


def payload_of(record: Record) -> str:
    """The sha256 of what the record names and is kept beside it. Raises RecordingError.

    See `payload_named`.
    """
    if record.kind not in PAYLOAD_KINDS or not isinstance(record.body, str):
        return ""
    try:
        return payload_named(record.kind, record.body)
    except RecordingError:
        raise RecordingError(f"event {record.seq}, a {record.kind}, names no payload") from None


def payload_named(kind: str, body: str) -> str:
    """The sum of what a tool returned in full, of an intervention's tensor or of the weights' list.

    Empty for any other event, and where a redactor did not let it be kept. Raises RecordingError.
    """
    try:
        if kind == ToolReturned.__name__:
            return str(json.loads(body)["payload_sha256"])
        if kind in _INTERVENTIONS:
            return str(json.loads(body)["tensor_sha256"])
        if kind == RunStarted.__name__:
            started = json.loads(body)
            # Recordings from before weights were listed do not say that they are not.
            if started.get("weights_listed") and not started.get("redacted"):
                return str(started["weights_sha256"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RecordingError(f"a {kind} names no payload: {error!r}") from None
    return ""
