"""Caches of transformers: creating, cropping, copying, measuring and inspecting them."""

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, StaticLayer
from transformers.generation.configuration_utils import GenerationMode

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.growing_layer import GrowingLayer
from tokentape.generation.hf.packed_tensors import held_tensors
from tokentape.generation.hf.quanto import unpack_without_compiling

# These layers keep the keys and values of all tokens in order, and never overwrite them.
_PLAIN = (GrowingLayer, DynamicLayer)

_EARLIER_STATIC_CACHE = ("_cache", "_previous_max_cache_length")
"""Attributes in which a model remembers its static cache, or the size of it."""


def cache_name(model: Any) -> str:
    """Return the name of the argument of the model's forward that takes its cache.

    It is `past_key_values`, `cache_params` or `cache`, by release and family. The model says it by
    the name under which it prepares a cache. Raise ModelError if it prepares none.
    """
    return _prepared(model, _single(GenerationConfig()), 1)[0]  # type: ignore[no-untyped-call]


def cache_argument(model: Any, cache: Cache) -> dict[str, Cache]:
    """Return the argument that passes a cache to the model's forward, or to `generate`."""
    return {cache_name(model): cache}


def new_cache(
    model: Any, config: GenerationConfig | None = None, *, total_tokens: int = 1
) -> Cache:
    """Return an empty cache as `generate()` creates it, with `GrowingLayer` for `DynamicLayer`.

    `total_tokens` counts the prompt and the new tokens; it is the capacity of fixed-size caches.
    Raise ModelError if the model has no cache, or none of the configured kind.
    """
    config = _single(config or GenerationConfig())  # type: ignore[no-untyped-call]
    kind = config.cache_implementation
    if kind is not None and (kind == "paged" or (kind.startswith("offl") and not _on_gpu(model))):
        raise ModelError(f"a cache of the kind {kind!r} is not supported")
    if kind == "quantized":
        unpack_without_compiling()
    _, cache = _prepared(model, config, total_tokens - 1)
    if type(cache) is DynamicCache and not cache.offloading:
        layers: list[Any] = cache.layers
        cache.layers = [GrowingLayer() if type(each) is DynamicLayer else each for each in layers]
    return cache


def cache_kind(config: GenerationConfig | None) -> str:
    """Return the kind of cache that a config chooses, with its settings; `None` by default."""
    kind = None if config is None else config.cache_implementation
    settings = getattr(config, "cache_config", None) if kind is not None else None
    return f"{kind} {json.dumps(settings, sort_keys=True, default=str)}" if settings else str(kind)


def _single(config: GenerationConfig) -> GenerationConfig:
    """Return a copy for one sequence, which recorded settings do not say and static caches need."""
    config = copy.copy(config)
    config.num_beams = config.num_return_sequences = 1
    # Older releases, such as 5.9, write into this mapping and take its `backend` out.
    config.cache_config = copy.deepcopy(getattr(config, "cache_config", None))
    return config


def _prepared(model: Any, config: GenerationConfig, capacity: int) -> tuple[str, Cache]:
    """Return the cache that the model prepares, and its name as an argument of the forward."""
    arguments: dict[str, Any] = {}
    kind = config.cache_implementation
    prepare = model._prepare_cache_for_generation
    try:
        with nullcontext() if kind is None else _no_earlier_static_cache(prepare):
            prepare(config, arguments, GenerationMode.GREEDY_SEARCH, 1, capacity)
    except (ImportError, ValueError) as error:
        raise ModelError(f"cannot create a cache of the kind {kind!r}: {error}") from None
    for name, cache in arguments.items():
        if isinstance(cache, Cache) and cache.layers:
            return name, cache
    raise ModelError(f"{type(model).__name__} has no cache that tokentape supports")


@contextmanager
def _no_earlier_static_cache(prepare: Any) -> Iterator[None]:
    """Hide from the model, within this context, the static cache of an earlier `generate()`.

    Some releases use that cache again, and some make a new one of at least its size. The shapes of
    a forward would then depend on earlier calls in the process.
    """
    attributes = vars(getattr(prepare, "__self__", prepare))
    saved = {name: attributes.pop(name) for name in _EARLIER_STATIC_CACHE if name in attributes}
    try:
        yield
    finally:
        for name in _EARLIER_STATIC_CACHE:
            attributes.pop(name, None)
        attributes.update(saved)


def _on_gpu(model: Any) -> bool:
    return bool(model.device.type == "cuda")


def prefix_obstacle(model: Any) -> str | None:
    """Return why the states of a prefix depend on the length of the prompt, or None."""
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    scopes = (rope, *(each for each in rope.values() if isinstance(each, dict)))
    kinds = {str(scope.get("rope_type")) for scope in scopes}
    # These kinds choose their frequencies by the length of the whole sequence.
    changing = sorted(kinds & {"longrope", "dynamic"})
    if changing:
        return f"rope:{changing[0]}"
    # Sparse attention selects its keys by the length. Only long prompts are affected.
    return "sparse:index_topk" if getattr(config, "index_topk", None) else None


_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def experts_setting(model: Any) -> str | None:
    """Return the field of the config that gives the model several experts, or None."""
    config = model.config.get_text_config(decoder=True)
    return next((name for name in _EXPERTS if (getattr(config, name, None) or 0) > 1), None)


def held_tokens(cache: Cache) -> int | None:
    """Return the number of tokens in the cache; None if the cache does not count them."""
    try:
        first = int(cache.get_seq_length())
    except ValueError:
        return None
    # Some releases ask the first layer only, which stays empty where a model keeps that layer's
    # states in its modules.
    return first or max((_layer_tokens(layer) for layer in cache.layers), default=0)


def _layer_tokens(layer: Any) -> int:
    """Return the number of tokens in a layer of a cache; 0 if it does not count them."""
    return int(layer.get_seq_length()) if hasattr(layer, "get_seq_length") else 0


def layer_kinds(cache: Cache) -> tuple[str, ...]:
    """Return the class names of the layers, those with more than keys and values first."""
    kinds = {type(layer).__name__: type(layer) in _PLAIN for layer in cache.layers}
    return tuple(sorted(kinds, key=lambda name: (kinds[name], name)))


def keeps_all_tokens(cache: Cache) -> bool:
    """Return whether all layers keep every token, so that the cache can be cropped anywhere."""
    return all(type(layer) in _PLAIN for layer in cache.layers)


def rounds_states(cache: Cache) -> bool:
    """Return whether any layer quantizes the keys and values that it holds."""
    return any(hasattr(layer, "_quantized_keys") for layer in cache.layers)


def fixed_size(cache: Cache) -> bool:
    """Return whether any layer has a fixed capacity."""
    return any(isinstance(layer, StaticLayer) for layer in cache.layers)


def recurrent(cache: Cache) -> str | None:
    """Return the class name of the first layer with recurrent states, or None."""
    kinds = (type(layer) for layer in cache.layers)
    plain = (*_PLAIN, DynamicSlidingWindowLayer)
    return next((kind.__name__ for kind in kinds if kind not in plain), None)


def states_sha256(cache: Cache) -> str:
    """Return the hexadecimal sha256 of all recurrent states, or an empty text without any."""
    plain = (*_PLAIN, DynamicSlidingWindowLayer)
    states = [
        tensor
        for layer in cache.layers
        if type(layer) not in plain
        for tensor in tensors_of(vars(layer))
    ]
    if not states:
        return ""
    digest = hashlib.sha256()
    for tensor in states:
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def can_crop(cache: Cache) -> bool:
    """Return whether the cache can be cropped now.

    `is_croppable` is unreliable: a sliding-window layer returns True and then raises, and a
    recurrent layer that records its past silently ignores `crop`.
    """
    layers: list[Any] = cache.layers
    return all(
        type(layer) in _PLAIN
        or (
            type(layer) is DynamicSlidingWindowLayer
            and layer.get_seq_length() < layer.sliding_window
        )
        for layer in layers
    )


def crop(cache: Cache, keep_tokens: int) -> None:
    """Crop the cache in place to its first tokens. After an error it must not be used."""
    excess = cache.get_seq_length() - keep_tokens
    if excess > 0:
        # A negative number is the number of tokens to remove.
        cache.crop(-excess)
    layers: list[Any] = cache.layers
    lengths = {layer.get_seq_length() for layer in layers}
    if lengths != {keep_tokens}:
        raise ModelError(f"crop to {keep_tokens} tokens left layers with {sorted(lengths)}")


def fork(cache: Cache) -> Cache:
    """Return an independent copy of a cache. Keys and values are shared until one is appended to.

    Layers that overwrite their tensors are copied deeply. Errors of these copies are propagated.
    """
    copied = copy.copy(cache)
    with torch.no_grad():
        copied.layers = [
            copy.copy(layer) if shares_with_forks(layer) else copy.deepcopy(layer)
            for layer in cache.layers
        ]
    return copied


def shares_with_forks(layer: Any) -> bool:
    """Return whether a fork shares the tensors of this layer until either is appended to."""
    return type(layer) in (*_PLAIN, DynamicSlidingWindowLayer)


def take_states(cache: Cache, start: int, end: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return copies of the keys and values of the tokens from `start` to `end`, per layer."""
    layers: list[Any] = cache.layers
    return [
        (layer.keys[:, :, start:end].clone(), layer.values[:, :, start:end].clone())
        for layer in layers
    ]


def put_states(cache: Cache, states: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Append states that `take_states` returned, in place."""
    layers: list[Any] = cache.layers
    with torch.no_grad():
        for layer, (keys, values) in zip(layers, states, strict=True):
            layer.update(keys, values)


def compact(cache: Cache) -> None:
    """Free the spare capacity of growing layers, in place."""
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            layer.compact()


def shapes(cache: Cache) -> tuple[tuple[int, ...], ...]:
    """Return batch, heads and dimension of each layer's keys; empty for layers without keys."""
    found: list[tuple[int, ...]] = []
    for layer in cache.layers:
        keys = getattr(layer, "keys", None)
        if isinstance(keys, torch.Tensor) and keys.dim() == 4:
            found.append((keys.shape[0], keys.shape[1], keys.shape[3]))
        else:
            found.append(())
    return tuple(found)


def tensors_of(value: object) -> Iterator[torch.Tensor]:
    """Yield every tensor in a nested value, e.g. the attributes of a layer."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_of(each)


def kv_bytes(*caches: Cache) -> int:
    """Return the bytes of storage of the caches; shared storage counts once.

    A cropped tensor still occupies all of its storage, and spare capacity counts.
    """
    return storage_bytes(
        tensor for cache in caches for layer in cache.layers for tensor in tensors_of(vars(layer))
    )


def storage_bytes(tensors: Iterator[torch.Tensor]) -> int:
    """Return the bytes of storage of the tensors; shared storage counts once."""
    storages = {}
    for tensor in tensors:
        for _, held in held_tensors(tensor):
            storage = held.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
