"""Logits processors and stopping criteria, built as `generate()` builds them."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.generation.stopping_criteria import MaxTimeCriteria, StopStringCriteria

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.generation_config import REFUSALS, recordable, recorded_config
from tokentape.generation.hf.processors import process
from tokentape.generation.hf.quiet_configs import quiet_configs
from tokentape.generation.hf.signatures import accepted
from tokentape.generation.hf.stopping import stop_flags


@dataclass(frozen=True, slots=True)
class Preparation:
    """The objects that `generate()` builds before its loop.

    Processors may have state: use a preparation for one turn only.
    """

    config: GenerationConfig
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList


@quiet_configs()
def prepare(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    config: GenerationConfig,
    prompt: torch.Tensor,
    *,
    processors: LogitsProcessorList | None = None,
    criteria: StoppingCriteriaList | None = None,
) -> Preparation:
    """Return the processors and criteria that `generate()` builds for a prompt, shape (1, tokens).

    Stop strings need the tokenizer. Raise ModelError if transformers rejects the settings.
    """
    config = copy.deepcopy(config)
    prompt_tokens = prompt.shape[1]
    try:
        prepare_tokens = model._prepare_special_tokens
        prepare_tokens(config, True, **accepted(prepare_tokens, device=prompt.device, batch_size=1))
        config = model._prepare_generated_length(
            generation_config=config,
            has_default_max_length=True,
            has_default_min_length=config.min_length in (None, 0),
            model_input_name="input_ids",
            inputs_tensor=prompt,
            input_ids_length=prompt_tokens,
        )
        return Preparation(
            config,
            model._get_logits_processor(
                generation_config=config,
                input_ids_seq_length=prompt_tokens,
                encoder_input_ids=prompt,
                logits_processor=processors or LogitsProcessorList(),
                device=prompt.device,
                model_kwargs={},
            ),
            model._get_stopping_criteria(
                generation_config=config,
                stopping_criteria=criteria or StoppingCriteriaList(),
                tokenizer=tokenizer,
            ),
        )
    except REFUSALS as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(f"transformers rejects these settings: {first_line}") from None


def check_settings(
    model: Any, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig, prompt: torch.Tensor
) -> None:
    """Raise ModelError if the settings fail on a row of zero logits.

    transformers validates most settings only when it uses them, which would be within a turn.
    """
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    config = copy.deepcopy(config)
    if config.guidance_scale is not None:
        if not isinstance(config.guidance_scale, int | float):
            raise ModelError(f"guidance_scale must be a number, not {config.guidance_scale!r}")
        # Its processor would forward the prompt.
        config.guidance_scale = None
    for name in ("forced_eos_token_id", "forced_bos_token_id"):
        forced = getattr(config, name)
        for token_id in forced if isinstance(forced, list) else [forced]:
            if token_id is None:
                continue
            if not (isinstance(token_id, int) and 0 <= token_id < vocabulary):
                raise ModelError(f"{name} is not a token id of this model: {token_id!r}")
    preparation = prepare(model, tokenizer, config, prompt)
    try:
        process(preparation.processors, prompt, torch.zeros((1, vocabulary), device=prompt.device))
        stop_flags(preparation.criteria, prompt)
    except REFUSALS as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(f"transformers rejects these settings: {first_line}") from None


def recordable_settings(
    model: Any, tokenizer: PreTrainedTokenizerBase, actual: Preparation, prompt: torch.Tensor
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return settings that reproduce a preparation of `generate()`, and what differs with them.

    The settings are tried. The second value has the class names of processors and criteria that
    they do not reproduce.
    """
    config = copy.deepcopy(actual.config)
    for name in [
        name for name in vars(config) if name.startswith("_") and name.endswith("_tensor")
    ]:
        delattr(config, name)
    config.max_new_tokens = int(actual.config.max_length or 0) - prompt.shape[1]
    config.max_length = None
    if config.min_new_tokens is not None:
        config.min_length = 0
    stops = [each for each in actual.criteria if isinstance(each, StopStringCriteria)]
    if stops:
        config.stop_strings = list(stops[0].stop_strings)
    settings = recordable(config)
    reproduced = prepare(model, tokenizer, recorded_config(settings), prompt)
    differing = [
        type(each).__name__
        for expected, found in (
            (actual.processors, reproduced.processors),
            (actual.criteria, reproduced.criteria),
        )
        for each in expected
        if not isinstance(each, MaxTimeCriteria)
        and not any(_are_equal(each, other) for other in found)
    ]
    if config.guidance_scale not in (None, 1, 1.0):
        differing.append("guidance_scale")
    if any(isinstance(each, MaxTimeCriteria) for each in actual.criteria):
        differing.append("max_time")
    return settings, tuple(dict.fromkeys(differing))


def _are_equal(one: object, other: object) -> bool:
    """Return whether two objects have the same class and equal attributes."""
    if type(one) is not type(other) or vars(one).keys() != vars(other).keys():
        return False
    return all(_values_equal(value, vars(other)[name]) for name, value in vars(one).items())


def _values_equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _values_equal(one[key], other[key]) for key in one
        )
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_values_equal, one, other))
    if type(one).__module__.startswith("transformers."):
        return _are_equal(one, other)
    return bool(one == other)
