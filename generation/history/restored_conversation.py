"""Restoring a conversation from recorded turns."""

from collections.abc import Iterable, Mapping, Sequence

from tokentape.generation.errors import PromptError
from tokentape.generation.history.context_limit import extend_within
from tokentape.generation.history.conversation import Conversation
from tokentape.generation.history.messages import AnsweredCall, NewMessage
from tokentape.generation.history.prompt import OWN_PROMPT, Prompt
from tokentape.generation.run_settings import RunSettings
from tokentape.recorder import RecordingError
from tokentape.recorder.events import Event, SystemPromptCached, ToolCalled
from tokentape.recorder.projections import Turn

SWITCHED = "switched_branch"
"""The `history_reason` of a turn that continues another branch, which no event describes."""


def restore_conversation(
    conversation: Conversation,
    settings: RunSettings,
    system: SystemPromptCached | None,
    turns: Sequence[Turn],
    *,
    calls: Mapping[str, AnsweredCall],
    context_tokens: int | None,
    last_is_open: bool = False,
    same_template: bool = True,
) -> Prompt | None:
    """Bring an empty conversation to its state after the recorded turns.

    Recorded prompts are kept as they were, also if the template writes another date now. `calls`
    are the recorded calls of tools by id. With `last_is_open`, the last turn is unfinished: return
    its prompt instead of beginning it.

    Raise RecordingError for a turn that continues another branch of the conversation, and, unless
    it is the `same_template` as recorded, if it appends another text to an `exact` history than the
    recorded one did.
    """
    if system is not None:
        conversation.restart_as_recorded(system)
    for turn in turns:
        if turn.started.history_reason == SWITCHED:
            raise RecordingError(
                f"turn {turn.number} continues another branch of the conversation and cannot be "
                "restored"
            )
        try:
            prompt: Prompt | None = recorded_prompt(
                conversation, turn, settings, calls=calls, context_tokens=context_tokens
            )
        except PromptError:
            prompt = None
        if prompt is None or prompt.ids != turn.prompt_ids:
            if not same_template and conversation.history == "exact":
                raise RecordingError(
                    f"this chat template writes another prompt of turn {turn.number} than "
                    "recorded: load the tokenizer with the recorded chat template"
                )
            prompt = conversation.as_recorded(turn, _messages(turn, calls))
        if last_is_open and turn is turns[-1]:
            return prompt
        conversation.begin_turn(prompt)
        if turn.finished is not None:
            conversation.finish_turn(turn.reply_ids, turn.finished.text, turn.finished.stop_text)
    return None


def recorded_prompt(
    conversation: Conversation,
    turn: Turn,
    settings: RunSettings,
    *,
    calls: Mapping[str, AnsweredCall],
    context_tokens: int | None,
) -> Prompt:
    """Return the prompt of a recorded turn, rendered again as an extension of the conversation.

    Raise PromptError if it exceeds the context or the template rejects it.
    """
    if turn.started.history_reason == OWN_PROMPT:
        own = turn.messages[0].content if turn.messages else turn.prompt_ids
        return conversation.own_prompt(own)
    new_tokens = int(turn.started.sampling.get("max_new_tokens") or 0)
    return extend_within(
        conversation,
        _messages(turn, calls),
        prompt_tokens_max=settings.prompt_tokens_max(context_tokens, new_tokens),
        at_context_limit=settings.at_context_limit,
    )


def answered_calls(events: Iterable[Event]) -> dict[str, AnsweredCall]:
    """Return the recorded calls of tools by id."""
    return {each.call_id: AnsweredCall.of(each) for each in events if isinstance(each, ToolCalled)}


def _messages(turn: Turn, calls: Mapping[str, AnsweredCall]) -> list[NewMessage]:
    return [
        NewMessage(
            role=each.role,
            content=each.content,
            tool_call_id=each.tool_call_id,
            call=calls.get(each.tool_call_id or ""),
        )
        for each in turn.messages
    ]
