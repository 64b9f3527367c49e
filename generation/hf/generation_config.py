"""Generation configs: the effective one, and how one is recorded and read back."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, SynthIDTextWatermarkingConfig
from transformers.generation.configuration_utils import GenerationMode

from tokentape.generation.errors import ModelError

# Fields without influence on the generated tokens: the origin of the config, and the lengths that
# max_new_tokens and min_new_tokens override (`generate` warns if both of a pair are set).
_UNRECORDED = frozenset(
    {
        "transformers_version",
        "_from_model_config",
        "max_length",
        # Additional outputs.
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "return_dict_in_generate",
        # Read only for beams and assistants, which are rejected.
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


# Errors that transformers raises for settings that it validates only when it uses them.
REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def effective_config(
    model: Any, base: GenerationConfig | None = None, **settings: Any
) -> GenerationConfig:
    """Return the config that `model.generate(base, **settings)` would use, with model defaults.

    Raise ModelError for an unknown setting, for beam search and for assisted decoding, which do not
    choose tokens step by step.
    """
    config: GenerationConfig
    # `base` and settings are not passed together, which is deprecated; settings take precedence.
    if base is not None and not isinstance(base, GenerationConfig):
        raise ModelError(
            f"generation_config must be a GenerationConfig, not a {type(base).__name__}"
        )
    config, _ = model._prepare_generation_config(base)
    try:
        unknown = _update(config, settings)
    except REFUSALS as error:
        raise ModelError(f"transformers rejects these settings: {error}") from None
    if unknown:
        raise ModelError(f"`generate` has no setting {sorted(unknown)[0]!r}")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ModelError(f"{mode.value.replace('_', ' ')} is not supported: use greedy or sampling")
    if config.num_return_sequences not in (None, 1):
        raise ModelError("one sequence is generated at a time: num_return_sequences must be 1")
    if config.token_healing:
        raise ModelError("token_healing is not supported: it changes the prompt")
    return config


def _update(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    unknown: dict[str, Any] = config.update(**settings)
    return unknown


def recordable(config: GenerationConfig) -> dict[str, Any]:
    """Return the config as plain values. Raise ModelError if JSON cannot represent it."""
    # A None that overrides a default is a setting: `generate` would fill in the default again.
    defaults = config._get_default_generation_params()
    values = {
        name: value
        for name, value in config.to_dict().items()
        if name not in _UNRECORDED
        and (name, value) != ("min_length", 0)
        and (value is not None or defaults.get(name) is not None)
    }
    try:
        # A watermarking config is an object.
        return dict(json.loads(json.dumps(values, allow_nan=False, default=_as_dict)))
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"this generation config cannot be recorded: {error}") from None


def _as_dict(value: Any) -> dict[str, Any]:
    described: dict[str, Any] = value.to_dict()
    return described


def recorded_config(sampling: Mapping[str, Any]) -> GenerationConfig:
    """Return the config that `recordable` described.

    Raise ModelError for settings that `recordable` never returns: a recording may be untrusted, and
    some settings of `generate` run code.
    """
    values = copy.deepcopy(dict(sampling))
    known = vars(GenerationConfig.from_dict({}))
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise ModelError(f"turns have no setting {unknown[0]!r}")
    watermarking = values.get("watermarking_config")
    if isinstance(watermarking, dict) and "ngram_len" in watermarking:
        # `from_dict` would create the other kind of watermark.
        values["watermarking_config"] = SynthIDTextWatermarkingConfig(**watermarking)
    config: GenerationConfig = GenerationConfig.from_dict(values)
    if not isinstance(config.do_sample, bool | None):
        raise ModelError(f"do_sample must be true or false, not {config.do_sample!r}")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ModelError(f"turns cannot be generated by {mode.value.replace('_', ' ')}")
    return config
