"""Restoring a conversation from recorded turns."""

from collections.abc import Sequence

from tokentape.generation.history.context_limit import extend_within
from tokentape.generation.history.conversation import OWN_PROMPT, Conversation, Prompt
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.run_settings import RunSettings
from tokentape.recorder import RecordingError
from tokentape.recorder.events import SystemPromptCached
from tokentape.recorder.projections import Turn

SWITCHED = "switched_branch"
"""The `history_reason` of a turn that continues another branch, which no event describes."""


def restore_conversation(
    conversation: Conversation,
    settings: RunSettings,
    system: SystemPromptCached | None,
    turns: Sequence[Turn],
    *,
    context_tokens: int | None,
    last_is_open: bool = False,
) -> Prompt | None:
    """Bring an empty conversation to its state after the recorded turns.

    With `last_is_open`, the last turn is unfinished: return its prompt instead of beginning it.
    Raise RecordingError if the current tokenizer and template do not produce the recorded prompts,
    and for a turn that continues another branch of the conversation.
    """
    if system is not None:
        conversation.restart(system.content)
        if conversation.ids != system.ids:
            raise RecordingError(
                "the tokenizer or chat template now produces another system prompt than recorded"
            )
    for turn in turns:
        if turn.started.history_reason == SWITCHED:
            raise RecordingError(
                f"turn {turn.number} continues another branch of the conversation and cannot be "
                "restored"
            )
        prompt = recorded_prompt(conversation, turn, settings, context_tokens=context_tokens)
        if prompt.ids != turn.prompt_ids:
            raise RecordingError(
                "the tokenizer or chat template now produces another prompt of turn "
                f"{turn.number} than recorded"
            )
        if last_is_open and turn is turns[-1]:
            return prompt
        conversation.begin_turn(prompt)
        if turn.finished is not None:
            conversation.finish_turn(turn.reply_ids, turn.finished.text, turn.finished.stop_text)
    return None


def recorded_prompt(
    conversation: Conversation, turn: Turn, settings: RunSettings, *, context_tokens: int | None
) -> Prompt:
    """Return the prompt of a recorded turn, rebuilt as an extension of the conversation.

    Raise PromptError if it exceeds the context or the template rejects it.
    """
    if turn.started.history_reason == OWN_PROMPT:
        own = turn.messages[0].content if turn.messages else turn.prompt_ids
        return conversation.own_prompt(own)
    messages = [
        NewMessage(role=each.role, content=each.content, tool_call_id=each.tool_call_id)
        for each in turn.messages
    ]
    new_tokens = int(turn.started.sampling.get("max_new_tokens") or 0)
    return extend_within(
        conversation,
        messages,
        prompt_tokens_max=settings.prompt_tokens_max(context_tokens, new_tokens),
        at_context_limit=settings.at_context_limit,
    )
