"""What is done about a conversation that does not fit into the model's context."""

from collections.abc import Sequence

from tokentape.generation.errors import PromptError
from tokentape.generation.history.conversation import Conversation, Prompt
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.history.pruning import plan_pruning

POLICIES = {"refuse": None, "prune_tool_results": "tool_results", "prune_turns": "turns"}


def check_context_policy(at_context_limit: str) -> None:
    if not isinstance(at_context_limit, str) or at_context_limit not in POLICIES:
        known = ", ".join(map(repr, POLICIES))
        raise PromptError(f"at_context_limit is one of {known}, not {at_context_limit!r}")


def extend_within(
    conversation: Conversation,
    new: Sequence[NewMessage],
    *,
    prompt_tokens_max: int | None,
    at_context_limit: str,
) -> Prompt:
    """The prompt of the next turn, the oldest history taken out where it is too long otherwise.

    With `refuse`, or where no limit is known, it is what `extend` gives, however long. Raises
    PromptError where all that may be taken out is not enough; nothing has changed then.
    """
    prompt = conversation.extend(new)
    policy = POLICIES[at_context_limit]
    if prompt_tokens_max is None or policy is None or len(prompt.ids) <= prompt_tokens_max:
        return prompt
    spans = conversation.spans()
    keep_question = all(message.role != "user" or message.is_result for message in new)
    longest, excess_tokens = len(prompt.ids), 0
    while len(prompt.ids) > prompt_tokens_max:
        # What a template writes in between makes the first estimate a little too low.
        excess_tokens += len(prompt.ids) - prompt_tokens_max
        pruning = plan_pruning(
            spans, policy=policy, excess_tokens=excess_tokens, keep_question=keep_question
        )
        if pruning is None:
            raise PromptError(
                f"a prompt of {longest} tokens is {longest - prompt_tokens_max} too long for the "
                f"model's context, and {at_context_limit} cannot take out enough: ask for fewer "
                "new tokens or begin anew"
            )
        prompt = conversation.extend_pruned(new, pruning)
    return prompt
