"""Checks of arguments before a turn begins."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tokentape.generation.errors import ModelError, PromptError
from tokentape.recorder.plain_values import plain_number, plain_whole


def check_not_training(model: Any) -> None:
    """Raise ModelError for a model in training mode: dropout uses torch's global generator."""
    if model.training:
        raise ModelError("the model is in training mode: call model.eval() first")


def check_adapters(model: Any) -> None:
    """Raise ModelError for an active adapter of peft that does not act token by token.

    Prompt learning (prefix and prompt tuning) puts virtual tokens before each forward, and an
    activated LoRA looks for its invocation tokens in the whole prompt: only the `generate` of peft
    supports them.
    """
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, Mapping):
        return
    active = getattr(model, "active_adapters", ())
    names = active() if callable(active) else active
    for name in names:
        config = configs.get(name)
        if getattr(config, "is_prompt_learning", False):
            why = "puts virtual tokens before the prompt"
        elif getattr(config, "alora_invocation_tokens", None):
            why = "acts only after its invocation tokens"
        else:
            continue
        raise ModelError(
            f"the adapter {name!r} {why}, which is not supported: set another adapter, or use the "
            "base model (get_base_model())"
        )


def check_prompt_ids(model: Any, ids: Sequence[int]) -> None:
    """Raise PromptError for an empty prompt, and for ids outside of the model's vocabulary."""
    if not ids:
        raise PromptError("the prompt is empty: there is nothing to continue")
    vocabulary = model.get_input_embeddings().num_embeddings
    if max(ids) >= vocabulary:
        raise PromptError(
            f"the prompt contains token {max(ids)}, but the model has only {vocabulary} tokens"
        )


def check_fits_context(longest: int | None, prompt_tokens: int, new_tokens: int) -> None:
    """Raise PromptError if the prompt and the new tokens exceed a context of `longest` tokens.

    None is a context without a limit.
    """
    if longest is not None and prompt_tokens + new_tokens > longest:
        raise PromptError(
            f"a prompt of {prompt_tokens} tokens and {new_tokens} new ones do not fit into "
            f"the model's context of {longest}: shorten the prompt, lower max_new_tokens, or, if "
            "the model can do more than its config says, set context_tokens"
        )


def check_count(name: str, value: object, *, least: int = 1, most: int = 2**62) -> int:
    """Return a whole number from `least` to `most`, of numpy or torch too, as an `int`.

    Raise ModelError for any other value.
    """
    number = plain_number(value)
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or not least <= number <= most:
        few = {0: "zero", 1: "one"}.get(least, str(least))
        raise ModelError(f"{name} must be a whole number of at least {few}: {value!r}")
    return int(number)


def check_seed(seed: object) -> int | None:
    """Return a seed, of numpy or torch too, as an `int`, or None.

    Raise ModelError if it is neither None nor a signed integer of 64 bits.
    """
    number = plain_whole(seed)
    if number is None:
        return None
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not (whole and -(2**63) <= number < 2**63):
        raise ModelError(f"a seed must be a whole number of 64 bits: {seed!r}")
    return int(number)


def check_switch(name: str, value: object) -> bool:
    """Return a boolean, of numpy or torch too, as a `bool`. Raise ModelError for another value."""
    switch = plain_number(value)
    if not isinstance(switch, bool):
        raise ModelError(f"{name} must be true or false: {value!r}")
    return switch


def check_text(name: str, value: object) -> None:
    """Raise ModelError if `value` is not a string that can be encoded."""
    if not isinstance(value, str):
        raise ModelError(f"{name} must be a string, not a {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ModelError(f"{name} contains an unpaired surrogate: {error}") from None


def check_recordable(name: str, value: object) -> None:
    """Raise ModelError if JSON in UTF-8 cannot hold `value`."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{name} cannot be recorded: {error}") from None
