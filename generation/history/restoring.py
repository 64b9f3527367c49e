"""A conversation made again from what was recorded of it."""

from collections.abc import Sequence
from typing import Any

from tokentape.generation.history.context_limit import extend_within
from tokentape.generation.history.conversation import OWN_PROMPT, Conversation, Prompt
from tokentape.generation.history.messages import NewMessage
from tokentape.recorder import RecordingError
from tokentape.recorder.events import RunStarted, SystemPromptCached
from tokentape.recorder.projections import Turn

SWITCHED = "switched_branch"
"""The `history_reason` of a turn behind another conversation, which no event has."""


def restore(
    conversation: Conversation,
    started: RunStarted,
    system: SystemPromptCached | None,
    turns: Sequence[Turn],
    *,
    context_tokens: int | None,
    goes_on: bool = False,
) -> Prompt | None:
    """Put an empty conversation where the turns left it.

    The last turn may be one that `goes_on`: then its prompt is returned, and not begun with.

    Nothing is believed: today's tokenizer and template must make the very prompts that were
    recorded. Raises RecordingError where they do not, and for turns that went on with another
    branch of the conversation.
    """
    if system is not None:
        conversation.restart(system.content)
        if conversation.ids != system.ids:
            raise RecordingError(
                "today's tokenizer or chat template makes another system prompt than was recorded"
            )
    for turn in turns:
        if turn.started.history_reason == SWITCHED:
            raise RecordingError(
                f"turn {turn.number} goes on with another branch of the conversation: it cannot be "
                "restored"
            )
        prompt = prompt_of(conversation, turn, started, context_tokens=context_tokens)
        if prompt.ids != turn.prompt_ids:
            raise RecordingError(
                f"today's tokenizer or chat template makes another prompt of turn {turn.number} "
                "than was recorded"
            )
        if goes_on and turn is turns[-1]:
            return prompt
        conversation.begin_turn(prompt)
        if turn.finished is not None:
            conversation.finish_turn(turn.reply_ids, turn.finished.text, turn.finished.stop_text)
    return None


def prompt_of(
    conversation: Conversation, turn: Turn, started: RunStarted, *, context_tokens: int | None
) -> Prompt:
    """The prompt of a recorded turn, made again behind what the conversation holds.

    Raises PromptError where what was said does not fit, or the template refuses it.
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
        prompt_tokens_max=prompt_tokens_max(started.behaviour, context_tokens, new_tokens),
        at_context_limit=str(started.behaviour.get("at_context_limit", "refuse")),
    )


def prompt_tokens_max(behaviour: Any, context_tokens: int | None, new_tokens: int) -> int | None:
    """How long a prompt may be: what the model's context and the run's budget leave for it."""
    budget = behaviour.get("context_budget_tokens")
    limits = [each for each in (context_tokens, budget) if each is not None]
    return min(limits) - new_tokens if limits else None
