"""The completion that a finished turn makes."""

from collections.abc import Sequence
from typing import Any

from tokentape.generation.completions.client_run import AwaitedCalls
from tokentape.generation.completions.completion import (
    CompletedCall,
    Completion,
    Continuation,
    FinishReason,
)
from tokentape.generation.engine.turn import TurnResult
from tokentape.recorder.chat_messages import ASSISTANT, ChatMessage
from tokentape.recorder.events import StopReason, TokenSampled


def completion_of(
    done: TurnResult,
    *,
    run_id: str,
    continuation: Continuation,
    awaited: AwaitedCalls,
    tokens: tuple[TokenSampled, ...],
    pieces: Sequence[str],
    stop_strings: Any = None,
) -> Completion:
    """Return a turn as a completion; `awaited` are the calls with which its reply ends."""
    calls = tuple(
        CompletedCall(
            call_id=call_id,
            name=call.name,
            arguments=call.arguments,
            text=call.text,
            error=call.error,
        )
        for call_id, call in zip(awaited.ids, awaited.calls, strict=True)
    )
    well_formed = [each for each in calls if not each.error]
    content = done.text
    for call in well_formed:
        content = content.replace(call.text, "", 1)
    if done.stop_reason == StopReason.STOP_STRING:
        content = _before_stop(content, stop_strings)
    message = ChatMessage(
        role=ASSISTANT,
        content=content.rstrip() if well_formed else content,
        tool_calls=tuple(each.as_sent for each in well_formed),
    )
    return Completion(
        run_id=run_id,
        turn=done.turn,
        continuation=continuation,
        message=message,
        text=done.text,
        calls=calls,
        stop_reason=done.stop_reason,
        finish_reason=_finish_reason(done.stop_reason, calls=bool(well_formed)),
        tokens=tokens,
        pieces=tuple(pieces),
        prompt_tokens=len(done.prompt.ids),
        cache=done.cache,
        seed=done.seed,
        duration_us=done.duration_us,
    )


def _before_stop(text: str, stop_strings: Any) -> str:
    """Return the text before the first stop string; what is recorded contains it."""
    given = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings or ())
    ends = [at for at in (text.find(each) for each in given if each) if at >= 0]
    return text[: min(ends)] if ends else text


def _finish_reason(stop_reason: str, *, calls: bool) -> FinishReason:
    if calls:
        return FinishReason.TOOL_CALLS
    if stop_reason in (StopReason.MAX_NEW_TOKENS, StopReason.MAX_TIME):
        return FinishReason.LENGTH
    return FinishReason.STOP
