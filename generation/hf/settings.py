"""Settings, processors and stopping criteria, as `generate()` makes them."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    SynthIDTextWatermarkingConfig,
)
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StopStringCriteria,
)

from tokentape.generation.errors import ModelError

# Not part of what is generated: where the config came from, and what max_new_tokens and
# min_new_tokens override (`generate` warns of a pair, even where one is a default).
_UNRECORDED = frozenset(
    {
        "transformers_version",
        "_from_model_config",
        "max_length",
        # What comes beside the tokens.
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "return_dict_in_generate",
        # Beams and assistants are refused: nothing reads these then.
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_lookbehind",
        "diversity_penalty",
        "early_stopping",
        "length_penalty",
        "max_matching_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "prompt_lookup_num_tokens",
        "target_lookbehind",
    }
)


# What comes out of transformers for settings that it does not look at before it uses them.
_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Preparation:
    """What `generate()` builds before its loop. Processors may hold state: one per turn."""

    config: GenerationConfig
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList


def effective_config(
    model: Any, base: GenerationConfig | None = None, **settings: Any
) -> GenerationConfig:
    """The config that `model.generate(**settings)` would use, model defaults and all.

    Raises ModelError for a setting that `generate` does not have, and for beam search or assisted
    decoding: a token there is not chosen step by step.
    """
    config: GenerationConfig
    # Not handed over together with the settings: that is deprecated, and settings count anyway.
    if base is not None and not isinstance(base, GenerationConfig):
        raise ModelError(f"generation_config is a GenerationConfig, not a {type(base).__name__}")
    config, _ = model._prepare_generation_config(base)
    try:
        unknown = _update(config, settings)
    except _REFUSALS as error:
        raise ModelError(f"transformers refuses these settings: {error}") from None
    if unknown:
        raise ModelError(f"`generate` has no setting {sorted(unknown)[0]!r}")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ModelError(f"{mode.value.replace('_', ' ')} is not supported: use greedy or sampling")
    if config.num_return_sequences not in (None, 1):
        raise ModelError("one sequence is generated at a time: num_return_sequences must be 1")
    if config.token_healing:
        raise ModelError("token_healing changes the prompt: heal it before it is given")
    return config


def _update(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    unknown: dict[str, Any] = config.update(**settings)
    return unknown


def recordable(config: GenerationConfig) -> dict[str, Any]:
    """The config as plain values. Raises ModelError for one that JSON cannot hold."""
    # A None that overrides a default is a setting, too: `generate` would fill it in again.
    defaults = config._get_default_generation_params()
    values = {
        name: value
        for name, value in config.to_dict().items()
        if name not in _UNRECORDED
        and (name, value) != ("min_length", 0)
        and (value is not None or defaults.get(name) is not None)
    }
    try:
        # A watermarking config is an object of its own.
        return dict(json.loads(json.dumps(values, allow_nan=False, default=_as_dict)))
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"this generation config cannot be recorded: {error}") from None


def _as_dict(value: Any) -> dict[str, Any]:
    described: dict[str, Any] = value.to_dict()
    return described


def recorded_config(sampling: Mapping[str, Any]) -> GenerationConfig:
    """The config that `recordable` wrote down.

    Raises ModelError for settings that no recorded turn had: a recording may come from anybody, and
    some settings of `generate` run code, or are for beams.
    """
    values = copy.deepcopy(dict(sampling))
    known = vars(GenerationConfig.from_dict({}))
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise ModelError(f"no turn has a setting {unknown[0]!r}")
    watermarking = values.get("watermarking_config")
    if isinstance(watermarking, dict) and "ngram_len" in watermarking:
        # `from_dict` would make the other kind of watermark of it.
        values["watermarking_config"] = SynthIDTextWatermarkingConfig(**watermarking)
    config: GenerationConfig = GenerationConfig.from_dict(values)
    if not isinstance(config.do_sample, bool | None):
        raise ModelError(f"do_sample is true or false, not {config.do_sample!r}")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ModelError(f"no turn is generated by {mode.value.replace('_', ' ')}")
    return config


def prepare(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: GenerationConfig,
    prompt: torch.Tensor,
    *,
    processors: LogitsProcessorList | None = None,
    criteria: StoppingCriteriaList | None = None,
) -> Preparation:
    """Processors and criteria as `generate()` makes them for a prompt, shape (1, tokens)."""
    config = copy.deepcopy(config)
    prompt_tokens = prompt.shape[1]
    try:
        model._prepare_special_tokens(config, True, device=prompt.device, batch_size=1)
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
    except _REFUSALS as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(f"transformers refuses these settings: {first_line}") from None


def rehearse(
    model: Any, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig, prompt: torch.Tensor
) -> None:
    """Try the settings on a row of zeros, so that what is wrong with them shows before a turn.

    Raises ModelError. transformers looks at most of them only when they are used.
    """
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    config = copy.deepcopy(config)
    if config.guidance_scale is not None:
        if not isinstance(config.guidance_scale, int | float):
            raise ModelError(f"guidance_scale is a number, not {config.guidance_scale!r}")
        # It would forward the prompt.
        config.guidance_scale = None
    for name in ("forced_eos_token_id", "forced_bos_token_id"):
        forced = getattr(config, name)
        for each in forced if isinstance(forced, list) else [forced]:
            if each is not None and not (isinstance(each, int) and 0 <= each < vocabulary):
                raise ModelError(f"{name} is no token of this model: {each!r}")
    made = prepare(model, tokenizer, config, prompt)
    try:
        process(made.processors, prompt, torch.zeros((1, vocabulary), device=prompt.device))
        stop_flags(made.criteria, prompt)
    except _REFUSALS as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(f"transformers refuses these settings: {first_line}") from None


def what_can_be_recorded(
    model: Any, tokenizer: PreTrainedTokenizerBase, given: Preparation, prompt: torch.Tensor
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings from which what `generate()` prepared can be made again, and what they cannot give.

    Proven by making it again: whatever is not the same is named by its class.
    """
    config = copy.deepcopy(given.config)
    for name in [
        name for name in vars(config) if name.startswith("_") and name.endswith("_tensor")
    ]:
        delattr(config, name)
    config.max_new_tokens = int(given.config.max_length or 0) - prompt.shape[1]
    config.max_length = None
    if config.min_new_tokens is not None:
        config.min_length = 0
    stops = [each for each in given.criteria if isinstance(each, StopStringCriteria)]
    if stops:
        config.stop_strings = list(stops[0].stop_strings)
    settings = recordable(config)
    again = prepare(model, tokenizer, recorded_config(settings), prompt)
    unlike = [
        type(each).__name__
        for mine, theirs in (
            (given.processors, again.processors),
            (given.criteria, again.criteria),
        )
        for each in mine
        if not isinstance(each, MaxTimeCriteria)
        and not any(_alike(each, other) for other in theirs)
    ]
    if config.guidance_scale not in (None, 1, 1.0):
        unlike.append("guidance_scale")
    if any(isinstance(each, MaxTimeCriteria) for each in given.criteria):
        unlike.append("max_time")
    return settings, tuple(dict.fromkeys(unlike))


def _alike(one: object, other: object) -> bool:
    """The same class with the same attributes, as far as attributes are plain or tensors."""
    if type(one) is not type(other) or vars(one).keys() != vars(other).keys():
        return False
    return all(_equal(value, vars(other)[name]) for name, value in vars(one).items())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if type(one).__module__.startswith("transformers."):
        return _alike(one, other)
    return bool(one == other)


FILTERS = (
    TopKLogitsWarper,
    TopPLogitsWarper,
    TopHLogitsWarper,
    MinPLogitsWarper,
    TypicalLogitsWarper,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
)
"""Processors that cut tokens off at a boundary of probability, which noise can move."""


def process(
    processors: LogitsProcessorList, ids: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """Scores after the processors, which see the whole prompt; the logits are left as they are.

    Those of transformers work on copies, others may not. Where there is no processor the scores
    are the logits. `LogitsProcessorList` itself would inspect every signature at every step.
    """
    scores = logits
    if any(not type(each).__module__.startswith("transformers.") for each in processors):
        scores = logits.clone()
    for processor in processors:
        scores = processor(ids, scores)
    return scores


def stop_flags(criteria: StoppingCriteriaList, ids: torch.Tensor) -> torch.Tensor:
    """Which criteria stop after these ids, shape (1, tokens): shape (criteria,), on their device.

    `generate()` asks all of them at once and says only that it stopped.
    """
    asked = [_flag(each(ids, None), ids.device) for each in criteria]
    return torch.cat(asked) if asked else torch.zeros(0, dtype=torch.bool, device=ids.device)


def _flag(answer: Any, device: torch.device) -> torch.Tensor:
    """What a criterion said of one sequence, shape (1,). Criteria of other people say `True`."""
    if isinstance(answer, torch.Tensor) and answer.shape == (1,):
        return answer
    return torch.as_tensor(answer, device=device).any().reshape(1)


def stop_reason_of(criteria: StoppingCriteriaList, flags: Sequence[bool]) -> str | None:
    """Why generation stops, from `stop_flags`, or None.

    Where several apply, an end-of-sequence token is the reason before a stop string, and either
    before the length.
    """
    fired = [type(each) for each, flag in zip(criteria, flags, strict=True) if flag]
    if not fired:
        return None
    named = [reason for kind, reason in _STOP_REASONS.items() if kind in fired]
    return named[0] if named else f"custom:{fired[0].__name__}"


def stop_reason(criteria: StoppingCriteriaList, ids: torch.Tensor) -> str | None:
    """Why generation stops after these ids, shape (1, tokens), or None."""
    return stop_reason_of(criteria, stop_flags(criteria, ids).tolist())


_STOP_REASONS = {
    EosTokenCriteria: "eos",
    StopStringCriteria: "stop_string",
    MaxLengthCriteria: "max_new_tokens",
    MaxTimeCriteria: "max_time",
}
