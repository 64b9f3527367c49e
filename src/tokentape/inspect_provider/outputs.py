"""A reply and its tokens as Inspect's `ModelOutput`."""

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    Logprobs,
    ModelOutput,
    ModelUsage,
    StopReason,
)
from inspect_ai.model import ModelCall as LoggedCall

from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.generation.completions.completion import Completion, FinishReason
from tokentape.inspect_provider.messages import to_tool_calls
from tokentape.inspect_provider.reasoning import to_content


def to_model_output(
    completion: Completion,
    model_name: str,
    *,
    max_tokens: int,
    store: str,
    logprobs: Logprobs | None,
) -> ModelOutput:
    """Return the reply; its metadata say which turn of which run in which store it is."""
    link = {
        "run_id": completion.run_id,
        "turn": completion.turn,
        "seed": completion.seed,
        "continuation": str(completion.continuation),
        "store": store,
    }
    message = ChatMessageAssistant(
        content=to_content(completion.message.content),
        tool_calls=to_tool_calls(completion.calls),
        model=model_name,
        source="generate",
    )
    choice = ChatCompletionChoice(
        message=message,
        stop_reason=_stop_reason(completion, max_tokens),
        logprobs=logprobs,
    )
    return ModelOutput(
        model=model_name,
        choices=[choice],
        usage=_usage(completion),
        metadata={"tokentape": link},
        response_id=f"{completion.run_id}/{completion.turn}",
    )


def _stop_reason(completion: Completion, max_tokens: int) -> StopReason:
    """Return why the reply ended; a malformed call, too, is one that Inspect answers."""
    if completion.calls:
        return "tool_calls"
    if completion.finish_reason is not FinishReason.LENGTH:
        return "stop"
    return "max_tokens" if len(completion.tokens) >= max_tokens else "model_length"


def too_long_output(model_name: str, error: Exception) -> ModelOutput:
    """Return the output for a conversation that exceeds the model's context."""
    return ModelOutput.from_content(model_name, str(error), "model_length", error=str(error))


def _usage(completion: Completion) -> ModelUsage:
    generated, reused = len(completion.tokens), completion.cache.reused_tokens
    return ModelUsage(
        input_tokens=completion.prompt_tokens - reused,
        input_tokens_cache_read=reused,
        output_tokens=generated,
        total_tokens=completion.prompt_tokens + generated,
    )


def to_model_call(request: ChatRequest, completion: Completion) -> LoggedCall:
    """Return what the log has of the call: the request, and the ids and decisions of the reply.

    Its time is that of the turn, without the time that it waited for room in the batch.
    """
    asked = {
        "messages": [each.to_dict() for each in request.messages],
        "tools": list(request.tools),
        "settings": dict(request.settings),
        "seed": request.seed,
    }
    cache = completion.cache
    replied = {
        "run_id": completion.run_id,
        "turn": completion.turn,
        "continuation": str(completion.continuation),
        "text": completion.text,
        "token_ids": [each.token_id for each in completion.tokens],
        "stop_reason": completion.stop_reason,
        "seed": completion.seed,
        "cache": {
            "decision": str(cache.decision),
            "reason": cache.reason,
            "prompt_tokens": cache.prompt_tokens,
            "reused_tokens": cache.reused_tokens,
        },
    }
    return LoggedCall.create(asked, replied, time=completion.duration_us / 1e6)
