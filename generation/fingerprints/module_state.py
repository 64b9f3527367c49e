"""The values that the modules of a model hold besides its weights: numbers, texts and buffers.

A forward reads these, not the config: `variance_epsilon` of a norm, `scaling` of an attention, the
class of an activation, the frequencies of rotary positions. They can be changed without a trace in
the config.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from tokentape.generation.fingerprints.adapter_state import is_adapter_layer
from tokentape.generation.fingerprints.model_config import plain_value, short_hash
from tokentape.generation.fingerprints.tensors import tensor_digest
from tokentape.generation.hf.layer_cast import stored_class
from tokentape.generation.hf.packed_tensors import is_wrapper

TENSOR = "tensor "
"""The beginning of the value of a tensor; its bits may differ on another machine."""

_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")
_ENTRIES_MAX = 1024
_MIXED_CHARS = 300
_LIBRARIES = ("accelerate", "bitsandbytes", "optimum", "peft", "torchao")
"""Libraries whose modules have fingerprints of their own: adapters, weights and loading."""
_SKIPPED = frozenset(
    {
        "all_tied_weights_keys",
        "attention_dropout",
        "elementwise_affine",
        "embedding_dim",
        "gradient_checkpointing",
        "in_features",
        "inplace",
        "layer_idx",
        "loss_type",
        "name_or_path",
        "nf",
        "norm_type",
        "normalized_shape",
        "num_embeddings",
        "nx",
        "out_features",
        "padding_idx",
        "scale_grad_by_freq",
        "sparse",
        "training",
        "vocab_size",
    }
)
"""Attributes that no forward of an evaluated model reads, or that the shapes of weights say."""
_USUAL = (torch.nn.Linear, torch.nn.ModuleList)
"""Classes that are left out: where one is replaced, the other class is recorded."""
_GROWING = ("dynamic", "longrope")
"""Kinds of rotary positions that change with the length of what they forward."""


def module_state(model: Any) -> dict[str, Any]:
    """Return the values that the modules hold, by name, equal ones of numbered layers once.

    `model.layers.*.self_attn.scaling` is the value of all layers, or a text with each value and its
    layers. The name of a module alone has its class. Tensors that the weights manifest lacks
    are given by a digest of their bytes. Takes some milliseconds for 30 layers.
    """
    found: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for path, module in own_modules(model):
        pattern, numbers = numbered(path)
        kind = stored_class(type(module))
        if kind not in _USUAL:
            found[pattern].append((numbers, kind.__qualname__))
        for name, value in _values(module):
            found[f"{pattern}.{name}" if pattern else name].append((numbers, value))
    joined = {name: _joined(values) for name, values in sorted(found.items())}
    state = {name: value for name, value in joined.items() if value is not None}
    if len(state) <= _ENTRIES_MAX:
        return state
    entries = list(state.items())
    return {**dict(entries[:_ENTRIES_MAX]), "…": short_hash(entries[_ENTRIES_MAX:])}


def own_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules with their names, without those that a library put between them.

    The layers that PEFT wraps keep the names that they have without an adapter.
    """
    for name, module in model.named_modules():
        is_of_library = stored_class(type(module)).__module__.startswith(_LIBRARIES)
        if not is_of_library and not is_adapter_layer(module) and ".lora_" not in name:
            plain = f"{name}.".replace(".base_layer.", ".").removeprefix("base_model.model.")
            yield plain.rstrip("."), module


def numbered(path: str) -> tuple[str, str]:
    """Return a module's name with a star for each number, and the numbers, joined by dots."""
    return _NUMBER.sub(".*", path), ".".join(_NUMBER.findall(path))


def _values(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public plain values of a module and its tensors that are no weights."""
    grows = any(each in str(getattr(module, "rope_type", "")) for each in _GROWING)
    is_dropout = isinstance(module, torch.nn.modules.dropout._DropoutNd)
    for name, value in vars(module).items():
        if name.startswith("_") or name in _SKIPPED:
            continue
        if grows and name.endswith(("max_seq_len_cached", "attention_scaling")):
            continue
        if torch.is_tensor(value) and not grows:
            yield name, _tensor(value)
        elif value is None or (_is_plain(value) and not is_dropout):
            yield name, _plain(value)
    for name in sorted(module._non_persistent_buffers_set):
        buffer = module._buffers.get(name)
        if buffer is not None and not grows:
            yield name, _tensor(buffer)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _plain(value: Any) -> Any:
    """Return a value as it is recorded; names in the order of the alphabet, since some are sets."""
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        value = sorted(value)
    return None if value is None else plain_value(value)


def _tensor(tensor: torch.Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta or is_wrapper(tensor):
        return f"{TENSOR}{kind} {shape}"
    return f"{TENSOR}{kind} {shape} {tensor_digest(tensor.detach())[:16]}"


def _joined(values: Sequence[tuple[str, Any]]) -> Any:
    """Return the one value of all modules of a pattern, or a text with each and its numbers."""
    of_value: dict[str, list[str]] = defaultdict(list)
    for numbers, value in values:
        of_value[repr(value)].append(numbers)
    if len(of_value) == 1:
        return values[0][1]
    text = ", ".join(
        f"{value} in {' '.join(numbers)}" for value, numbers in sorted(of_value.items())
    )
    return text if len(text) <= _MIXED_CHARS else short_hash(text)
