"""The settings of a turn that are worth a line: those that are not the default."""

from collections.abc import Mapping
from typing import Any

from tokentape.recorder.events import TurnStarted
from tokentape.replay.view.json_values import json_value

WARPERS: Mapping[str, tuple[Any, ...]] = {
    "temperature": (1,),
    "top_h": (),
    "top_k": (0,),
    "top_p": (1,),
    "min_p": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
"""The settings that act on sampled turns only, in the order of their processors, with the values
that change nothing. None never changes anything."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "bad_words_ids": (),
    "begin_suppress_tokens": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "repetition_penalty": (1,),
    "sequence_bias": (),
    "suppress_tokens": (),
    "watermarking_config": (),
}
"""The other settings that change the scores of tokens, with the values that change nothing."""

_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "early_stopping": (False,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "remove_invalid_values": (False,),
    "renormalize_logits": (False,),
    "use_cache": (True,),
}
_TOKENS_OF_MODEL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_UNSHOWN = (*_TOKENS_OF_MODEL, "transformers_version")


def acting(settings: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Return those of the settings in a table whose value changes something, in its order."""
    found = {name: settings.get(name) for name in neutral}
    return {
        name: value
        for name, value in found.items()
        if value is not None and not (_is_plain(value) and value in neutral[name])
    }


def shown_settings(started: TurnStarted) -> dict[str, Any]:
    """Return the settings of a round that are not the default; of a greedy one no warpers."""
    sampling = started.sampling
    shown: dict[str, Any] = {"do_sample": True} if sampling.get("do_sample") else {}
    if shown:
        shown |= acting(sampling, WARPERS)
    shown |= acting(sampling, NEUTRAL)
    known = {*WARPERS, *NEUTRAL, *_UNSHOWN}
    for name, value in sampling.items():
        is_default = value is None or (_is_plain(value) and value in _DEFAULTS.get(name, ()))
        if name not in known and not is_default:
            shown[name] = value
    shown |= {name: value for name, value in started.own_settings.items() if value is not None}
    return {name: json_value(value) for name, value in shown.items()}


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)
