"""A reply as server-sent events, while it is generated."""

import json
from collections.abc import AsyncIterator
from typing import Any

from tokentape.endpoint.chat_responses import (
    ResponseWriter,
    call_deltas,
    response_id,
    tape_facts,
)
from tokentape.endpoint.content_stream import ContentStream
from tokentape.endpoint.served_turns import BegunTurn, StreamedToken, TurnUpdate
from tokentape.generation.completions.completion import Completion
from tokentape.recorder.events import TokenSampled

DONE = b"data: [DONE]\n\n"


def event_of(data: Any) -> bytes:
    """Return a JSON object as an event of a stream."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode(errors="replace") + b"\n\n"


class ReplyStream:
    """Writes the chunks of one reply.

    Text that may turn out to be a call or a stop string waits until that is clear. The
    log-probabilities of the tokens of a text come with it, those of a call with the end.
    """

    def __init__(self, writer: ResponseWriter, content: ContentStream, *, wants_usage: bool):
        self._writer = writer
        self._content = content
        self._wants_usage = wants_usage
        self._id = ""
        self._unsent: list[TokenSampled] = []

    async def chunks(self, updates: AsyncIterator[TurnUpdate]) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a turn, as its updates come."""
        async for update in updates:
            if isinstance(update, BegunTurn):
                self._id = response_id(update.run_id, update.turn)
                yield self._writer.chunk(self._id, {"role": "assistant", "content": ""})
            elif isinstance(update, StreamedToken):
                self._unsent.append(update.event)
                if text := self._content.add(update.piece):
                    yield self._chunk({"content": text})
            else:
                for chunk in self._end(update):
                    yield chunk

    def _chunk(self, delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        tokens, self._unsent = self._unsent, []
        return self._writer.chunk(self._id, delta, tokens=tokens, **more)

    def _end(self, completion: Completion) -> list[dict[str, Any]]:
        chunks = []
        if text := self._content.finish(completion.message.content):
            chunks.append(self._chunk({"content": text}))
        if calls := call_deltas(completion):
            chunks.append(self._chunk({"tool_calls": calls}))
        more = {"tokentape": tape_facts(completion)}
        chunks.append(self._chunk({}, finish=str(completion.finish_reason), more=more))
        if self._wants_usage:
            chunks.append(self._writer.usage_chunk(self._id, completion))
        return chunks
