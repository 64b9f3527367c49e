"""Tool calls with their results, compact and in full."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tokentape.recorder import Recording
from tokentape.recorder.events import ToolCalled, ToolReturned
from tokentape.replay.run_diff.run_outline import ToolExchange
from tokentape.replay.view.json_values import json_value

PAYLOAD_BYTES = 2_000_000
"""The size of the largest full result that a document has."""
PAYLOADS_BYTES = 16_000_000
"""The size of all full results of a document together."""


@dataclass(slots=True)
class Payloads:
    """Reads full results of tools, as far as they fit into a document."""

    recording: Recording
    wanted: bool
    _left: int = PAYLOADS_BYTES
    _read: dict[str, tuple[str | None, str]] = field(default_factory=dict)

    def text(self, event: ToolReturned) -> tuple[str | None, str]:
        """Return the full result of a tool as text, or None and why there is no text.

        The reason is empty if texts are not wanted: a server gives them one by one.
        """
        sha256 = event.payload_sha256
        if sha256 not in self._read:
            self._read[sha256] = self._text(event)
        return self._read[sha256]

    def _text(self, event: ToolReturned) -> tuple[str | None, str]:
        size = f"{event.payload_bytes:,} bytes"
        read = self.recording.read_blob
        if not event.payload_sha256 or read is None:
            return None, "not in the recording"
        if not self.wanted:
            return None, ""
        if event.payload_bytes > min(PAYLOAD_BYTES, self._left):
            return None, f"too large for this page, {size}"
        try:
            payload = read(event.payload_sha256)
        # Whatever a store raises: a page without one result is better than none.
        except Exception as error:
            return None, f"not in the recording: {error}"
        self._left -= len(payload)
        try:
            return payload.decode(), ""
        except UnicodeDecodeError:
            return None, f"binary, {size}"


def call_values(exchanges: Iterable[ToolExchange], payloads: Payloads) -> Iterator[dict[str, Any]]:
    """Yield calls and results as the document has them."""
    for each in exchanges:
        result = None if each.returned is None else _result(each.returned, payloads)
        if each.called is not None:
            yield _call(each.called) | {"result": result}
        elif each.returned is not None:
            answered = each.returned
            yield _UNKNOWN_CALL | {
                "call_id": answered.call_id,
                "name": answered.name,
                "result": result,
            }


_UNKNOWN_CALL: dict[str, Any] = {"arguments": "", "caller": "", "step": None, "text": ""}


def _call(event: ToolCalled) -> dict[str, Any]:
    return {
        "call_id": event.call_id,
        "name": event.name,
        "arguments": json.dumps(json_value(event.arguments), ensure_ascii=False),
        "caller": str(event.caller),
        "step": event.step,
        "text": event.text,
    }


def _result(event: ToolReturned, payloads: Payloads) -> dict[str, Any]:
    payload, note = payloads.text(event)
    return {
        "content": event.content,
        "content_tokens": event.content_tokens,
        "payload_bytes": event.payload_bytes,
        "payload_tokens": event.payload_tokens,
        "payload_sha256": event.payload_sha256,
        "payload": payload,
        "payload_note": note,
        "error": event.error,
        "traceback": event.traceback,
        "duration_us": event.duration_us,
        "tensors": [json_value(each) for each in event.tensors],
    }
