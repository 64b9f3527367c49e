"""What is refused before a turn begins."""

from collections.abc import Sequence
from typing import Any

from generation.errors import ModelError, PromptError


def refuse_training(model: Any) -> None:
    """Raise ModelError for a model in training mode: dropout draws from torch's own generator."""
    if model.training:
        raise ModelError("the model is in training mode: call model.eval() first")


def refuse_unreadable(model: Any, ids: Sequence[int]) -> None:
    """Raise PromptError for a prompt that is empty or has ids that the model does not know."""
    if not ids:
        raise PromptError("the prompt is empty: there is nothing to continue")
    vocabulary = model.get_input_embeddings().num_embeddings
    if max(ids) >= vocabulary:
        raise PromptError(f"the prompt holds token {max(ids)}, and the model has {vocabulary}")


def refuse_beyond_context(model: Any, prompt_tokens: int, new_tokens: int) -> None:
    """Raise PromptError where the prompt and the new tokens do not fit into the context."""
    longest = context_tokens(model)
    if longest is not None and prompt_tokens + new_tokens > longest:
        raise PromptError(
            f"a prompt of {prompt_tokens} tokens and {new_tokens} new ones do not fit into "
            f"the model's context of {longest}: shorten the one or ask for fewer"
        )


def context_tokens(model: Any) -> int | None:
    """The longest sequence that the model was made for; None where its config does not say."""
    config = model.config.get_text_config(decoder=True)
    longest: int | None = getattr(config, "max_position_embeddings", None)
    return longest
