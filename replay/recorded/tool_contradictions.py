"""Tool results that contradict the other events of their run."""

import hashlib
from collections.abc import Iterator, Mapping

from tokentape.recorder import Recording
from tokentape.recorder.events import MessageAdded, ToolCalled, ToolReturned
from tokentape.replay.recorded.loaded_run import LoadedRun
from tokentape.replay.results.json_fields import json_excerpts, unequal_texts
from tokentape.store import StoreError


def tool_contradictions(run: LoadedRun) -> list[tuple[int, str]]:
    """Return the turn of each tool result that contradicts other events, and a sentence.

    A message with a result must have the content that the tool returned, and name a call that was
    made and answered. Where blobs can be read, each payload must have its recorded sha256 and size.
    An interrupted call is no contradiction, nor is a result that no message shows: the prompt may
    have been rejected.
    """
    found: list[tuple[int, str]] = []
    called: dict[str, ToolCalled] = {}
    returned: dict[str, ToolReturned] = {}
    redacted = run.started.redacted
    for turn, event in run.tool_events():
        if isinstance(event, ToolCalled):
            called[event.call_id] = event
            returned.pop(event.call_id, None)
            continue
        is_checked = run.only_turns is None or turn in run.only_turns
        if isinstance(event, ToolReturned):
            returned[event.call_id] = event
            if not is_checked:
                continue
            sentences = _contradictions_of_return(event, called.get(event.call_id), run.recording)
        elif redacted or not is_checked:
            # A redactor may rewrite the same text in two ways.
            continue
        else:
            sentences = _contradictions_of_message(event, called, returned)
        found += ((turn, sentence) for sentence in sentences)
    return found


def _contradictions_of_return(
    event: ToolReturned, call: ToolCalled | None, recording: Recording
) -> Iterator[str]:
    result = f"the result of {event.name} ({event.call_id})"
    if call is None:
        yield f"{result} answers a call that was not made"
    elif call.name != event.name:
        yield f"{result} answers a call of {call.name}"
    # A redacted payload may have no sha256.
    if recording.read_blob is None or not event.payload_sha256:
        return
    try:
        payload = recording.read_blob(event.payload_sha256)
    except StoreError as error:
        yield f"the payload of {event.name} ({event.call_id}) cannot be read: {error}"
        return
    if len(payload) != event.payload_bytes:
        yield (
            f"the payload of {event.name} ({event.call_id}) has {len(payload)} bytes, not the "
            f"{event.payload_bytes} that the tool returned"
        )
    elif hashlib.sha256(payload).hexdigest() != event.payload_sha256:
        yield f"the payload of {event.name} ({event.call_id}) does not have its recorded sha256"


def _contradictions_of_message(
    event: MessageAdded, called: Mapping[str, ToolCalled], returned: Mapping[str, ToolReturned]
) -> Iterator[str]:
    call_id = event.tool_call_id or ""
    result = returned.get(call_id)
    if result is None:
        made = "did not come back" if call_id in called else "was not made"
        yield f"the model was shown the result of {call_id}, a call that {made}"
    elif result.content != event.content:
        yield (
            f"the model was shown another result of {result.name} ({call_id}) than the tool "
            f"returned: {_content_difference(result.content, event.content)}"
        )


def _content_difference(returned: str, shown: str) -> str:
    first, *more = unequal_texts("content", returned, shown)
    recorded, replayed = json_excerpts(first)
    others = f", and {len(more)} more" if more else ""
    return f"{first.field} is {replayed}, returned {recorded}{others}"
