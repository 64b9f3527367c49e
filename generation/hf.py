"""Every private call into transformers, in one place.

`GenerationMixin` has no public step. What happens here follows `generate()`, `_prefill` and
`_sample` of transformers 5.23 call for call, so that the same forwards run on the same cache.
`tests/generation/test_parity.py` holds the two equal, bit for bit. Models are `Any` here: the
types that transformers declares do not know these methods.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
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

from generation.errors import ModelError

# Not part of what is generated: where the config came from, and what max_new_tokens and
# min_new_tokens override (`generate` warns of a pair, even where one is a default).
_UNRECORDED = ("transformers_version", "_from_model_config", "max_length")


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
    config, _ = model._prepare_generation_config(base)
    try:
        unknown = _update(config, settings)
    except (TypeError, ValueError) as error:
        raise ModelError(f"transformers refuses these settings: {error}") from None
    if unknown:
        raise ModelError(f"`generate` has no setting {sorted(unknown)[0]!r}")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ModelError(f"{mode.value.replace('_', ' ')} is not supported: use greedy or sampling")
    if config.num_return_sequences not in (None, 1):
        raise ModelError("one sequence is generated at a time: num_return_sequences must be 1")
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
        return dict(json.loads(json.dumps(values, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ModelError(f"this generation config cannot be recorded: {error}") from None


def recorded_config(sampling: Mapping[str, Any]) -> GenerationConfig:
    """The config that `recordable` wrote down."""
    config: GenerationConfig = GenerationConfig.from_dict(copy.deepcopy(dict(sampling)))
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
    device = prompt.device
    prompt_tokens = prompt.shape[1]
    model._prepare_special_tokens(config, True, device=device, batch_size=1)
    config = model._prepare_generated_length(
        generation_config=config,
        has_default_max_length=True,
        has_default_min_length=config.min_length in (None, 0),
        model_input_name="input_ids",
        inputs_tensor=prompt,
        input_ids_length=prompt_tokens,
    )
    try:
        return Preparation(
            config,
            model._get_logits_processor(
                generation_config=config,
                input_ids_seq_length=prompt_tokens,
                encoder_input_ids=prompt,
                logits_processor=processors or LogitsProcessorList(),
                device=device,
                model_kwargs={},
            ),
            model._get_stopping_criteria(
                generation_config=config,
                stopping_criteria=criteria or StoppingCriteriaList(),
                tokenizer=tokenizer,
            ),
        )
    except ValueError as error:
        raise ModelError(f"transformers refuses these settings: {error}") from None


def prefix_obstacle(model: Any) -> str | None:
    """Why what was computed for a prefix is not what a longer prompt would compute, or None."""
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    scopes = (rope, *(each for each in rope.values() if isinstance(each, dict)))
    kinds = {str(scope.get("rope_type")) for scope in scopes}
    # These choose their frequencies by the length of the whole sequence.
    changing = sorted(kinds & {"longrope", "dynamic"})
    return f"rope:{changing[0]}" if changing else None


class Decoder:
    """One sequence on its way through the model, and the cache it fills.

    Logits are returned as `generate(output_logits=True)` returns them: float32, shape (1, vocab).
    """

    def __init__(
        self, model: Any, config: GenerationConfig, prompt: torch.Tensor, cache: Cache
    ) -> None:
        """`prompt` is the whole prompt, shape (1, tokens); the cache may hold a part of it."""
        self._model = model
        self._config = config
        self.ids = prompt
        self._inputs: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        # The positions of the whole prompt, as for a sequence without a cache: `generate` makes
        # them from an all-ones mask, which it then drops.
        mask = torch.ones_like(prompt)
        self._inputs["position_ids"] = model._prepare_position_ids_for_generation(
            prompt, {"attention_mask": mask}
        )
        self._inputs["attention_mask"] = None
        if model._supports_logits_to_keep():
            self._inputs["logits_to_keep"] = 1

    @torch.no_grad()
    def prefill(self, chunk_tokens: int | None) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Forward what the cache does not hold; the last logits and the lengths of the forwards.

        A model that cannot exactly go on from a prefix gets one forward.
        """
        cache = self._inputs["past_key_values"]
        new_tokens = self.ids.shape[1] - cache.get_seq_length()
        if recurrent(cache) or prefix_obstacle(self._model):
            chunk_tokens = None
        config = copy.copy(self._config)
        config._mask_length = self.ids.shape[1]
        split = chunk_tokens is not None and new_tokens > chunk_tokens
        config.prefill_chunk_size = chunk_tokens if split else None
        try:
            outputs = self._model._prefill(self.ids, config, self._inputs, is_first_iteration=True)
        except AttributeError as error:
            raise ModelError(f"{type(self._model).__name__} fills no cache: {error}") from None
        return self._logits(outputs), _chunks(new_tokens, chunk_tokens if split else None)

    def fills(self, cache: Cache) -> bool:
        """Whether the cache holds every id but the last: some models drop or ignore it."""
        mine = self._inputs.get("past_key_values") is cache
        return mine and int(cache.get_seq_length()) == self.ids.shape[1] - 1

    def append(self, token: torch.Tensor) -> None:
        """Append a token, shape (1,); the last of a turn is never forwarded."""
        self.ids = torch.cat([self.ids, token[:, None]], dim=-1)

    @torch.no_grad()
    def forward_last(self) -> torch.Tensor:
        """Forward the token that was appended last; its logits."""
        inputs = self._model.prepare_inputs_for_generation(
            self.ids, next_sequence_length=1, **self._inputs
        )
        return self._logits(self._model(**inputs, return_dict=True))

    def _logits(self, outputs: Any) -> torch.Tensor:
        self._inputs = self._model._update_model_kwargs_for_generation(
            outputs, self._inputs, is_encoder_decoder=False
        )
        logits: torch.Tensor = outputs.logits[:, -1]
        return logits.to(copy=True, dtype=torch.float32, device=self.ids.device)


def _chunks(tokens: int, chunk_tokens: int | None) -> tuple[int, ...]:
    if chunk_tokens is None:
        return (tokens,)
    whole, rest = divmod(tokens, chunk_tokens)
    return (chunk_tokens,) * whole + ((rest,) if rest else ())


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

    Those of transformers work on copies, others may not.
    """
    call: Any = processors
    if any(not type(each).__module__.startswith("transformers.") for each in processors):
        logits = logits.clone()
    scores: torch.Tensor = call(ids, logits)
    return scores


def stop_reason(criteria: StoppingCriteriaList, ids: torch.Tensor) -> str | None:
    """Why generation stops after these ids, shape (1, tokens), or None.

    `generate()` asks all criteria at once and says only that it stopped. Where several apply, an
    end-of-sequence token is the reason before a stop string, and either before the length.
    """
    fired = [type(each) for each in criteria if bool(torch.as_tensor(each(ids, None)).any())]
    if not fired:
        return None
    named = [reason for kind, reason in _STOP_REASONS.items() if kind in fired]
    return named[0] if named else f"custom:{fired[0].__name__}"


_STOP_REASONS = {
    EosTokenCriteria: "eos",
    StopStringCriteria: "stop_string",
    MaxLengthCriteria: "max_new_tokens",
    MaxTimeCriteria: "max_time",
}


@contextmanager
def decoding(model: Any) -> Iterator[None]:
    """The context of `generate()`'s loop, which its prefill is not in: experts on a GPU differ."""
    with model._optimize_model_for_decode():
        yield


def new_cache(model: Any) -> Cache:
    """The cache that `generate()` makes where it is given none.

    Raises ModelError for a model whose cache does not know how many tokens it holds.
    """
    refusal = ModelError(f"{type(model).__name__} keeps no cache that tokentape can follow yet")
    if not model._supports_default_dynamic_cache():
        raise refusal
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    try:
        cache.get_seq_length()
    except ValueError:
        raise refusal from None
    return cache


def reuse_obstacle(model: Any) -> str | None:
    """Why no cache of this model may be cut back and gone on with, or None.

    `is_croppable` cannot be asked: a sliding-window layer says yes and then raises, and a
    recurrent one that records its past is left as it was, silently.
    """
    kinds = (type(layer) for layer in new_cache(model).layers)
    fixed = next((kind.__name__ for kind in kinds if kind is not DynamicLayer), None)
    return prefix_obstacle(model) or (f"not_croppable:{fixed}" if fixed else None)


def recurrent(cache: Cache) -> str | None:
    """The first kind of layer that keeps anything but keys and values, or None."""
    kinds = (type(layer) for layer in cache.layers)
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return next((kind.__name__ for kind in kinds if kind not in plain), None)


def crop(cache: Cache, keep_tokens: int) -> None:
    """Cut the cache back to its first tokens. Not atomic: after an error the cache is worthless."""
    excess = cache.get_seq_length() - keep_tokens
    if excess > 0:
        # Negative: the number of tokens to take off.
        cache.crop(-excess)
    layers: list[Any] = cache.layers
    lengths = {layer.get_seq_length() for layer in layers}
    if lengths != {keep_tokens}:
        raise ModelError(f"crop to {keep_tokens} tokens left layers with {sorted(lengths)}")


def fork(cache: Cache) -> Cache:
    """A cache that shares its tensors with this one, and grows and shrinks on its own.

    Only for layers without a crop obstacle: they never write into a tensor they have.
    """
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def kv_bytes(*caches: Cache) -> int:
    """Bytes of storage that the caches hold on to, each storage once.

    A cropped tensor still holds all of its storage.
    """
    storages = {}
    for layer in (layer for cache in caches for layer in cache.layers):
        for tensor in vars(layer).values():
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def forward_rows(model: Any, ids: torch.Tensor, cache: Cache, rows: torch.Tensor) -> torch.Tensor:
    """Forward ids, shape (1, tokens), onto a cache; logits of the rows only, (1, rows, vocab)."""
    keeps = {"logits_to_keep": rows} if model._supports_logits_to_keep() else {}
    logits: torch.Tensor = model(
        input_ids=ids, past_key_values=cache, use_cache=True, return_dict=True, **keeps
    ).logits
    return logits if keeps else logits[:, rows]
