"""The keywords that a turn takes, for type checkers, completion and `help`."""

from collections.abc import Sequence
from typing import Any, TypedDict

from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from tokentape.generation.cache import CachedPrefix
from tokentape.generation.callbacks import StateObserver, TokenCallback

TokenIds = int | list[int] | None


class GenerationKeywords(TypedDict, total=False):
    """The fields of a `GenerationConfig` with an effect on a turn; without one, the model's own.

    Those that `ManualGenerator.generate` names itself are in `TurnKeywords`.
    """

    top_k: int | None
    top_h: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    encoder_repetition_penalty: float | None
    encoder_no_repeat_ngram_size: int | None
    exponential_decay_length_penalty: tuple[int, float] | None
    bad_words_ids: list[list[int]] | None
    sequence_bias: Any
    suppress_tokens: list[int] | None
    begin_suppress_tokens: list[int] | None
    min_length: int | None
    min_new_tokens: int | None
    max_time: float | None
    stop_strings: str | list[str] | None
    eos_token_id: TokenIds
    pad_token_id: int | None
    bos_token_id: int | None
    forced_bos_token_id: int | None
    forced_eos_token_id: TokenIds
    renormalize_logits: bool | None
    remove_invalid_values: bool | None
    guidance_scale: float | None
    watermarking_config: Any
    cache_implementation: str | None
    cache_config: Any
    prefill_chunk_size: int | None
    generation_config: GenerationConfig | None


class TurnKeywords(GenerationKeywords, total=False):
    """The settings of a turn; see `ManualGenerator.generate`."""

    max_new_tokens: int
    do_sample: bool | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    use_cache: bool
    callback: TokenCallback | None
    observer: StateObserver | None
    observe_layers: Sequence[str | int]
    past_key_values: CachedPrefix | None
    return_cache: bool
    logits_processor: LogitsProcessorList | None
    stopping_criteria: StoppingCriteriaList | None


TURN_DEFAULTS: dict[str, object] = {
    **dict.fromkeys(TurnKeywords.__annotations__),
    "max_new_tokens": 100,
    "use_cache": True,
    "observe_layers": (),
    "return_cache": False,
}
"""The default of each keyword; None is that of the model."""
