"""Caches of transformers: how they are made, cut, copied, measured and looked into."""

import copy
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, StaticLayer
from transformers.generation.configuration_utils import GenerationMode

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.growing import GrowingLayer

# They keep all keys and values in order, and never write into a tensor that they have.
_PLAIN = (GrowingLayer, DynamicLayer)


def cache_name(model: Any) -> str:
    """Under which name this model's forward takes its cache."""
    return "cache_params" if "mamba" in type(model).__name__.lower() else "past_key_values"


def new_cache(
    model: Any, config: GenerationConfig | None = None, *, total_tokens: int = 1
) -> Cache:
    """The cache that `generate()` makes where it is given none, with layers that grow in place.

    `total_tokens` counts the prompt and the new tokens: caches of a fixed size are made for it.
    Raises ModelError for a model that keeps no cache, or not the kind that is asked for.
    """
    config = copy.copy(config or GenerationConfig())  # type: ignore[no-untyped-call]
    # Of settings that events recorded these are missing, and static caches count with them.
    config.num_beams = config.num_return_sequences = 1
    kind = config.cache_implementation
    if kind is not None and (kind == "paged" or (kind.startswith("offl") and not _on_gpu(model))):
        raise ModelError(f"a cache of the kind {kind!r} is not supported here")
    name = cache_name(model)
    made: dict[str, Any] = {}
    try:
        model._prepare_cache_for_generation(
            config, made, GenerationMode.GREEDY_SEARCH, 1, total_tokens - 1
        )
    except (ImportError, ValueError) as error:
        raise ModelError(f"no cache of the kind {kind!r}: {error}") from None
    cache = made.get(name)
    if not isinstance(cache, Cache) or not cache.layers:
        raise ModelError(f"{type(model).__name__} keeps no cache that tokentape can follow")
    if type(cache) is DynamicCache and not cache.offloading:
        layers: list[Any] = cache.layers
        cache.layers = [GrowingLayer() if type(each) is DynamicLayer else each for each in layers]
    return cache


def _on_gpu(model: Any) -> bool:
    return bool(model.device.type == "cuda")


def prefix_obstacle(model: Any) -> str | None:
    """Why what was computed for a prefix is not what a longer prompt would compute, or None."""
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    scopes = (rope, *(each for each in rope.values() if isinstance(each, dict)))
    kinds = {str(scope.get("rope_type")) for scope in scopes}
    # These choose their frequencies by the length of the whole sequence.
    changing = sorted(kinds & {"longrope", "dynamic"})
    if changing:
        return f"rope:{changing[0]}"
    # Sparse attention chooses its keys anew for each length; only long prompts show it.
    return "sparse:index_topk" if getattr(config, "index_topk", None) else None


def held_tokens(cache: Cache) -> int | None:
    """How many tokens the cache says it holds; None for one that does not count them."""
    try:
        return int(cache.get_seq_length())
    except ValueError:
        return None


def layer_kinds(cache: Cache) -> tuple[str, ...]:
    """The kinds of its layers, each once, those that are more than keys and values first."""
    kinds = {type(layer).__name__: type(layer) in _PLAIN for layer in cache.layers}
    return tuple(sorted(kinds, key=lambda name: (kinds[name], name)))


def keeps_everything(cache: Cache) -> bool:
    """Whether each layer keeps the keys and values of every token, and so can be cut anywhere."""
    return all(type(layer) in _PLAIN for layer in cache.layers)


def fixed_size(cache: Cache) -> bool:
    return any(isinstance(layer, StaticLayer) for layer in cache.layers)


def recurrent(cache: Cache) -> str | None:
    """The first kind of layer that keeps anything but keys and values, or None."""
    kinds = (type(layer) for layer in cache.layers)
    plain = (*_PLAIN, DynamicSlidingWindowLayer)
    return next((kind.__name__ for kind in kinds if kind not in plain), None)


def states_sha256(cache: Cache) -> str:
    """Of what a cache holds beside keys and values, and does not count; empty without that."""
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
    """Whether the cache still has everything that a shorter one would have.

    `is_croppable` cannot be asked: a sliding-window layer says yes and then raises, and a
    recurrent one that records its past is left as it was, silently.
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
    """A cache that goes its own way. Keys and values are shared until one of the two needs room.

    Layers that write into their tensors are copied. Raises whatever they raise where they cannot.
    """
    twin = copy.copy(cache)
    shared = (*_PLAIN, DynamicSlidingWindowLayer)
    with torch.no_grad():
        twin.layers = [
            copy.copy(layer) if type(layer) in shared else copy.deepcopy(layer)
            for layer in cache.layers
        ]
    return twin


def take_states(cache: Cache, start: int, end: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Copies of the keys and values of some tokens, a pair for each layer."""
    layers: list[Any] = cache.layers
    return [
        (layer.keys[:, :, start:end].clone(), layer.values[:, :, start:end].clone())
        for layer in layers
    ]


def put_states(cache: Cache, states: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Append what `take_states` took."""
    layers: list[Any] = cache.layers
    with torch.no_grad():
        for layer, (keys, values) in zip(layers, states, strict=True):
            layer.update(keys, values)


def compact(cache: Cache) -> None:
    """Give back the storage that layers hold beyond their tokens."""
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            layer.compact()


def shapes(cache: Cache) -> tuple[tuple[int, ...], ...]:
    """Of each layer's keys: batch, heads and dimension. Empty for layers without keys."""
    found: list[tuple[int, ...]] = []
    for layer in cache.layers:
        keys = getattr(layer, "keys", None)
        if isinstance(keys, torch.Tensor) and keys.dim() == 4:
            found.append((keys.shape[0], keys.shape[1], keys.shape[3]))
        else:
            found.append(())
    return tuple(found)


def tensors_of(value: object) -> Iterator[torch.Tensor]:
    """Every tensor in a layer's attributes, however deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_of(each)


def kv_bytes(*caches: Cache) -> int:
    """Bytes of storage that the caches hold on to, each storage once.

    A cropped tensor still holds all of its storage, and one that grows holds its room.
    """
    return storage_bytes(
        tensor for cache in caches for layer in cache.layers for tensor in tensors_of(vars(layer))
    )


def storage_bytes(tensors: Iterator[torch.Tensor]) -> int:
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
