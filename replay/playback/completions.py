"""Recorded rounds as chat completions in the form of OpenAI's API."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokentape.recorder.chat_messages import ASSISTANT, ChatMessage, ChatToolCall
from tokentape.recorder.events import StopReason, TokenSampled
from tokentape.recorder.events.turn import CALLS
from tokentape.recorder.generate_settings import GENERATE_SETTINGS
from tokentape.recorder.near_names import nearest
from tokentape.replay.playback.recorded_turns import RecordedRound, RecordedRun, RecordedTurn
from tokentape.replay.playback.token_places import text_bytes
from tokentape.replay.playback.transcripts import said_by
from tokentape.replay.results.errors import ReplayError

_RENAMED = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "stop": "stop_strings",
}
_NO_EFFECT = (
    "model",
    "logprobs",
    "top_logprobs",
    "user",
    "metadata",
    "store",
    "timeout",
    "tool_choice",
    "parallel_tool_calls",
    "stream_options",
    "extra_headers",
    "extra_query",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
)
"""Parameters of a request that choose no token of a recorded reply, or that no tape has."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "stream": (False,),
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
}
"""Parameters that a recorded reply can have been made with at these values only."""


def generate_settings(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `generate` that the parameters of a request stand for, and `seed`.

    Raise ReplayError for a parameter that is unknown, or that a playback cannot follow.
    """
    settings: dict[str, Any] = {}
    given = {**request, **(request.get("extra_body") or {})}
    for name, value in given.items():
        if value is None or name in (*_NO_EFFECT, "extra_body"):
            continue
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise ReplayError(
                    f"a playback cannot follow {name}={value!r}: leave it out "
                    "(a recorded reply is one, and comes whole)"
                )
            continue
        name = _RENAMED.get(name, name)
        if name not in GENERATE_SETTINGS and name != "seed":
            known = (*GENERATE_SETTINGS, *_RENAMED, *_NO_EFFECT, *_NEUTRAL, "seed")
            raise ReplayError(f"a request has no parameter {name!r}{nearest(name, known)}")
        settings[name] = value
    if isinstance(settings.get("stop_strings"), str):
        settings["stop_strings"] = [settings["stop_strings"]]
    if settings.get("temperature") is not None:
        settings.setdefault("do_sample", settings["temperature"] != 0)
    return settings


def completion(
    run: RecordedRun,
    turn: RecordedTurn,
    round_: RecordedRound,
    request: Mapping[str, Any],
    *,
    said: ChatMessage | None = None,
) -> dict[str, Any]:
    """Return a recorded round as the answer to a request.

    `said` is the reply if its calls are known and not yet recorded, as they are with their results.
    The ids of prompt and reply are in `prompt_token_ids` and `token_ids`, as vLLM names them.
    """
    finished, started = round_.turn.finished, round_.turn.started
    assert finished is not None
    said = said or ChatMessage(
        role=ASSISTANT,
        content=said_by(round_),
        tool_calls=tuple(
            ChatToolCall(
                call_id=each.called.call_id, name=each.called.name, arguments=each.called.arguments
            )
            for each in round_.calls
        ),
    )
    message = {**said.to_dict(), "refusal": None}
    reused = 0 if round_.turn.cache is None else round_.turn.cache.reused_tokens
    generated = len(round_.turn.tokens)
    return {
        "id": f"chatcmpl-{run.run_id}-{turn.number}-{round_.number}",
        "object": "chat.completion",
        "created": round_.at_us // 1_000_000,
        "model": str(request.get("model") or run.started.model),
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": _finish_reason(finished.stop_reason, calls=bool(said.tool_calls)),
                "logprobs": _logprobs(run, round_, request),
                "token_ids": list(round_.turn.reply_ids),
            }
        ],
        "usage": {
            "prompt_tokens": started.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": started.prompt_tokens + generated,
            "prompt_tokens_details": {"cached_tokens": reused},
        },
        "prompt_token_ids": list(round_.turn.prompt_ids),
    }


def _finish_reason(stop_reason: str, *, calls: bool) -> str:
    if calls or stop_reason in CALLS:
        return "tool_calls"
    by_length = (StopReason.MAX_NEW_TOKENS, StopReason.MAX_TIME)
    return "length" if stop_reason in by_length else "stop"


def _logprobs(
    run: RecordedRun, round_: RecordedRound, request: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the log-probabilities of the sampled tokens and of the top k, all that are recorded.

    None if the request says `logprobs=False`. `top_logprobs` is the greatest k.
    """
    if request.get("logprobs") is False:
        return None
    wanted = request.get("top_logprobs")
    return {
        "content": [_token(run, each, wanted) for each in round_.turn.tokens],
        "refusal": None,
    }


def _token(run: RecordedRun, token: TokenSampled, wanted: int | None) -> dict[str, Any]:
    top = list(zip(token.top_ids, token.top_logprobs, strict=True))[:wanted]
    return _spelled(run, token.token_id, token.logprob) | {
        "top_logprobs": [_spelled(run, token_id, logprob) for token_id, logprob in top]
    }


def _spelled(run: RecordedRun, token_id: int, logprob: float) -> dict[str, Any]:
    text = run.texts.get(token_id)
    if text is None:
        # vLLM's spelling of a token that is given by its id.
        return {"token": f"token_id:{token_id}", "logprob": logprob, "bytes": None}
    return {"token": text, "logprob": logprob, "bytes": list(text_bytes(text))}


def tools_of(tools: Sequence[Mapping[str, Any]] | None) -> tuple[Mapping[str, Any], ...]:
    """Return the schemas of tools as runs record them: name, description and parameters."""
    functions = [each.get("function", each) for each in tools or ()]
    return tuple(
        {
            "name": str(each.get("name", "")),
            "description": each.get("description") or "",
            "parameters": {"type": "object", "properties": {}, **(each.get("parameters") or {})},
        }
        for each in functions
    )
