"""What happens when a conversation exceeds the context of the model."""

from collections.abc import Sequence

from tokentape.generation.errors import PromptTooLongError
from tokentape.generation.history.context_policies import POLICIES
from tokentape.generation.history.conversation import Conversation
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.prompt import Prompt
from tokentape.generation.history.pruning import plan_pruning


def extend_within(
    conversation: Conversation,
    new: Sequence[NewMessage],
    *,
    prompt_tokens_max: int | None,
    at_context_limit: str,
) -> Prompt:
    """Return the prompt of the next turn, with the oldest history removed if it is too long.

    With `refuse`, or if `prompt_tokens_max` is None, return the result of `extend` of any length.
    Raise PromptTooLongError if pruning cannot remove enough. The conversation is not modified.
    """
    prompt = conversation.extend(new)
    policy = POLICIES[at_context_limit]
    if prompt_tokens_max is None or policy is None or len(prompt.ids) <= prompt_tokens_max:
        return prompt
    ranges = conversation.segment_ranges()
    keep_question = all(message.role != "user" or message.is_result for message in new)
    longest, excess_tokens = len(prompt.ids), 0
    while len(prompt.ids) > prompt_tokens_max:
        # Text of the template between messages makes the first estimate slightly too low.
        excess_tokens += len(prompt.ids) - prompt_tokens_max
        pruning = plan_pruning(
            ranges, policy=policy, excess_tokens=excess_tokens, keep_question=keep_question
        )
        if pruning is None:
            raise PromptTooLongError(
                f"a prompt of {longest} tokens is {longest - prompt_tokens_max} too long for the "
                f"model's context, and {at_context_limit} cannot remove enough: lower "
                "max_new_tokens or start a new conversation"
            )
        prompt = conversation.extend_pruned(new, pruning)
    return prompt
