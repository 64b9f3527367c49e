"""Hashes and samples of all tensors of a model."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from tokentape.generation.errors import ModelError
from tokentape.generation.fingerprints.tensors import tensor_digest, tensor_sample
from tokentape.generation.fingerprints.weights_manifest import TensorFingerprint, WeightsManifest
from tokentape.generation.hf.packed_tensors import held_tensors, is_wrapper, packing

_THREADS_MAX = 8
_PLAIN = (bool, int, float, str, bytes, torch.dtype, type(None))

T = TypeVar("T")


def hash_weights(model: torch.nn.Module) -> WeightsManifest:
    """Return the manifest of a model, hashed in threads: 540 MB take 0.4 s on two cores.

    Raise ModelError for a tensor whose bytes cannot be read.
    """
    tensors = _named_tensors(model)
    # The largest first, so that the threads finish at about the same time.
    names = sorted(tensors, key=lambda name: tensors[name].nbytes, reverse=True)
    # hashlib releases the GIL.
    with ThreadPoolExecutor(min(_THREADS_MAX, os.cpu_count() or 1)) as pool:
        return WeightsManifest.of(pool.map(lambda name: _fingerprint(name, tensors[name]), names))


def sample_weights(model: torch.nn.Module) -> str:
    """Return a digest of the name, dtype, shape and about 1,024 numbers of every tensor.

    It changes with a tensor as a whole, but most likely not with a single number.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in _named_tensors(model).items():
        digest.update(_head(name, tensor))
        digest.update(_read(tensor_sample, name, tensor))
    return digest.hexdigest()


def _fingerprint(name: str, tensor: torch.Tensor) -> TensorFingerprint:
    return TensorFingerprint(
        name=name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        digest=_read(tensor_digest, name, tensor),
    )


def _read(read: Callable[[torch.Tensor], T], name: str, tensor: torch.Tensor) -> T:
    """Return `read(tensor)`. Raise ModelError if the bytes cannot be read."""
    if tensor.is_meta:
        raise ModelError(
            f"{name} is on the meta device and has no bytes: load the model without offloading"
        )
    try:
        return read(tensor)
    except (KeyError, NotImplementedError, RuntimeError, TypeError) as error:
        kind = f"{str(tensor.dtype).removeprefix('torch.')}, {tensor.layout}"
        line = str(error).partition("\n")[0]
        raise ModelError(f"the bytes of {name} ({kind}) cannot be hashed: {line}") from None


def _head(name: str, tensor: torch.Tensor) -> bytes:
    return f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()


def _named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of the state dict in order; tied tensors under their first name."""
    found: dict[str, torch.Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for key, value in model.state_dict().items():
        for name, tensor in _tensors_in(key, value):
            memory = _read(_memory_of, name, tensor)
            # All tensors without elements have the same address.
            if memory not in seen or tensor.numel() == 0:
                found[name] = tensor
                seen.add(memory)
    return found


def _as_bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _memory_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return the address and layout of the tensor's bytes."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _tensors_in(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in a value of a state dict, e.g. those that packed weights consist of."""
    if isinstance(value, torch.Tensor):
        for held, tensor in held_tensors(value):
            yield f"{name}{held}", tensor
        if is_wrapper(value):
            yield f"{name}.packing", _as_bytes(packing(value))
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _tensors_in(f"{name}.{key}", each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _tensors_in(f"{name}.{index}", each)
    elif isinstance(value, _PLAIN):
        yield name, _as_bytes(repr(value))
    else:
        raise ModelError(
            f"{name} in the state dict of the model cannot be hashed: {type(value).__name__}"
        )
