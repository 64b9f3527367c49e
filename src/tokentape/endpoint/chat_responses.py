"""The reply to a request, as the JSON objects of a chat completion or of the chunks of a stream."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokentape.endpoint.token_logprobs import TokenLogprobs
from tokentape.generation.completions.completion import Completion
from tokentape.recorder.events import TokenSampled


def response_id(run_id: str, turn: int) -> str:
    """Return the id of a response, which leads to the recorded turn."""
    return f"chatcmpl-{run_id}-{turn}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseWriter:
    """Writes the reply to one request."""

    model: str
    fingerprint: str
    logprobs: TokenLogprobs
    top_logprobs: int | None
    """How many of the likeliest tokens the client wants; None for no log-probabilities."""
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completion: Completion) -> dict[str, Any]:
        """Return the response of a request that does not stream."""
        message: dict[str, Any] = {"role": "assistant", "refusal": None}
        calls = [each.to_dict() for each in completion.message.tool_calls]
        content = completion.message.content
        message["content"] = content or None if calls else content
        if calls:
            message["tool_calls"] = calls
        choice = {
            "index": 0,
            "message": message,
            "logprobs": self._logprobs(completion.tokens),
            "finish_reason": str(completion.finish_reason),
        }
        id_ = response_id(completion.run_id, completion.turn)
        return {
            **self._head(id_, "chat.completion"),
            "choices": [choice],
            "usage": usage(completion),
            "tokentape": tape_facts(completion),
        }

    def chunk(
        self,
        id_: str,
        delta: dict[str, Any],
        *,
        tokens: Sequence[TokenSampled] = (),
        finish: str | None = None,
        more: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a chunk of a stream; `tokens` are those that were sampled since the last one."""
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        choice["logprobs"] = self._logprobs(tokens) if tokens else None
        return {**self._head(id_, "chat.completion.chunk"), "choices": [choice], **(more or {})}

    def usage_chunk(self, id_: str, completion: Completion) -> dict[str, Any]:
        """Return the last chunk of a stream with usage, which has no choice."""
        head = self._head(id_, "chat.completion.chunk")
        return {**head, "choices": [], "usage": usage(completion)}

    def _head(self, id_: str, kind: str) -> dict[str, Any]:
        return {
            "id": id_,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _logprobs(self, tokens: Sequence[TokenSampled]) -> dict[str, Any] | None:
        if self.top_logprobs is None:
            return None
        return {"content": self.logprobs.listed(tokens, self.top_logprobs), "refusal": None}


def call_deltas(completion: Completion) -> list[dict[str, Any]]:
    """Return the tool calls of a reply as a stream has them, each whole."""
    calls = completion.message.tool_calls
    return [{"index": index, **each.to_dict()} for index, each in enumerate(calls)]


def usage(completion: Completion) -> dict[str, Any]:
    """Return the number of tokens; those of the prompt that were in the cache are `cached`."""
    generated = len(completion.tokens)
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": completion.prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": completion.cache.reused_tokens},
    }


def tape_facts(completion: Completion) -> dict[str, Any]:
    """Return what is recorded of a reply and has no place in a chat completion."""
    cache = completion.cache
    return {
        "run_id": completion.run_id,
        "turn": completion.turn,
        "continuation": str(completion.continuation),
        "stop_reason": completion.stop_reason,
        "seed": completion.seed,
        "cache": {
            "decision": str(cache.decision),
            "reason": cache.reason,
            "prompt_tokens": cache.prompt_tokens,
            "reused_tokens": cache.reused_tokens,
            "computed_tokens": cache.computed_tokens,
        },
        "duration_us": completion.duration_us,
    }
