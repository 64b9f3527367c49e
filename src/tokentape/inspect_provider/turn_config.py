"""Inspect's `GenerateConfig` as settings of a turn."""

from collections.abc import Mapping
from logging import getLogger
from typing import Any

from inspect_ai.model import GenerateConfig
from inspect_ai.util import warn_once
from transformers import GenerationConfig

from tokentape.generation.engine.turn_keywords import GenerationKeywords
from tokentape.generation.errors import PromptError
from tokentape.recorder.near_names import nearest

MAX_TOKENS = 2048
"""Most tokens of a reply if the evaluation does not say: that of Inspect's own local providers."""
_REFUSED = (
    "best_of",
    "frequency_penalty",
    "presence_penalty",
    "prompt_logprobs",
    "response_schema",
    "modalities",
)
"""Fields that would change a reply and that cannot be met."""
_IGNORED = (
    "effort",
    "parallel_tool_calls",
    "reasoning_effort",
    "reasoning_mode",
    "reasoning_tokens",
    "verbosity",
)
"""Fields about abilities that only some models of other providers have."""


def to_settings(config: GenerateConfig, own: GenerationConfig) -> dict[str, Any]:
    """Return the keywords of `Investigation.chat` for a configuration; `own` is that of the model.

    Temperature 0 is greedy. A configuration that leaves the sampling out gets that of the model,
    and where that has none, temperature 1, as OpenAI's API has it. `extra_body` has further
    settings of `generate`. Raise PromptError for a field that cannot be met; warn of one that is
    ignored.
    """
    for name in _REFUSED:
        if getattr(config, name, None) not in (None, 0, 0.0):
            raise PromptError(f"tokentape cannot generate with {name}: leave it out")
    if (config.num_choices or 1) > 1:
        raise PromptError("tokentape generates one choice: ask again for another, or use epochs")
    for name in _IGNORED:
        if getattr(config, name, None) is not None:
            warn_once(getLogger(__name__), f"tokentape ignores {name}")
    return {
        "max_new_tokens": config.max_tokens or MAX_TOKENS,
        **_sampling(config, own),
        **_of_text(config),
        **_further(config.extra_body or {}),
    }


def _sampling(config: GenerateConfig, own: GenerationConfig) -> dict[str, Any]:
    named = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    given = {name: value for name, value in named.items() if value is not None}
    if config.temperature == 0 or not (given or own.do_sample is not False):
        return {"do_sample": False}
    # Left to itself, `generate` would sample from 50 tokens only.
    unfiltered = {"top_k": 0} if own.top_k is None else {}
    return {"do_sample": True, **unfiltered, **given}


def _of_text(config: GenerateConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if config.stop_seqs:
        settings["stop_strings"] = list(config.stop_seqs)
    if config.logit_bias:
        settings["sequence_bias"] = [
            [[token_id], float(bias)] for token_id, bias in config.logit_bias.items()
        ]
    return settings


def _further(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return further settings of `generate`. Raise PromptError for a name that is none of them."""
    known = [name for name in GenerationKeywords.__annotations__ if name != "generation_config"]
    for name in given:
        if name not in known:
            raise PromptError(
                f"extra_body has {name!r}, which is no setting of generate"
                f"{nearest(name, known)}; there are {', '.join(known)}"
            )
    return dict(given)
