"""All tensors of a model: their list, and a sample of them."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from tokentape.generation.errors import ModelError
from tokentape.generation.fingerprints.tensors import tensor_bytes, tensor_digest, tensor_sample
from tokentape.generation.fingerprints.weights_manifest import TensorFingerprint, WeightsManifest

_THREADS_MAX = 8
_PLAIN = (bool, int, float, str, bytes, torch.dtype, type(None))

T = TypeVar("T")


def list_weights(model: torch.nn.Module) -> WeightsManifest:
    """Reads the whole model, in threads: 540 MB take 0.3 s on two cores.

    Raises ModelError for a tensor without bytes that could be read.
    """
    tensors = _named_tensors(model)
    # The largest first, or all would wait for whoever begins with it last.
    names = sorted(tensors, key=lambda name: tensors[name].nbytes, reverse=True)
    # hashlib lets other threads work while it does.
    with ThreadPoolExecutor(min(_THREADS_MAX, os.cpu_count() or 1)) as pool:
        return WeightsManifest.of(pool.map(lambda name: _print_of(name, tensors[name]), names))


def sample_weights(model: torch.nn.Module) -> str:
    """A digest of every tensor's name, type and shape and of about 1,024 of its numbers.

    What is done to a whole tensor changes it; what is done to one number most likely does not.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in _named_tensors(model).items():
        digest.update(_head(name, tensor))
        digest.update(_of(tensor_sample, name, tensor))
    return digest.hexdigest()


def weights_sha256(model: torch.nn.Module) -> str:
    """The one sum that stands in recordings from before weights were listed.

    It is over the name, dtype, shape and bytes of every tensor of the state dict; tied ones count
    under each of their names.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(_head(name, tensor))
        for piece in tensor_bytes(tensor):
            digest.update(piece)
    return digest.hexdigest()


def _print_of(name: str, tensor: torch.Tensor) -> TensorFingerprint:
    return TensorFingerprint(
        name=name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        digest=_of(tensor_digest, name, tensor),
    )


def _of(read: Callable[[torch.Tensor], T], name: str, tensor: torch.Tensor) -> T:
    """What is read of a tensor. Raises ModelError where its bytes cannot be."""
    if tensor.is_meta:
        raise ModelError(
            f"{name} is on the meta device and has no bytes: load the model whole, nothing of it "
            "offloaded"
        )
    try:
        return read(tensor)
    except (KeyError, NotImplementedError, RuntimeError, TypeError) as error:
        what = f"{str(tensor.dtype).removeprefix('torch.')}, {tensor.layout}"
        line = str(error).partition("\n")[0]
        raise ModelError(f"no sum can be taken of the bytes of {name} ({what}): {line}") from None


def _head(name: str, tensor: torch.Tensor) -> bytes:
    return f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()


def _named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of the state dict, in its order; one with several names under the first."""
    found: dict[str, torch.Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for key, value in model.state_dict().items():
        for name, tensor in _tensors_in(key, value):
            place = _of(_place_of, name, tensor)
            # Without elements they are all at the same place.
            if place not in seen or tensor.numel() == 0:
                found[name] = tensor
                seen.add(place)
    return found


def _place_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Where its bytes are, and how they lie."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _tensors_in(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """A state dict may hold more than tensors, such as the packed ones of quantized layers."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _tensors_in(f"{name}.{key}", each)
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _tensors_in(f"{name}.{index}", each)
    elif isinstance(value, _PLAIN):
        yield name, torch.tensor(list(repr(value).encode()), dtype=torch.uint8)
    else:
        raise ModelError(
            f"{name} in the state dict of the model is of a kind that no sum can be taken of: "
            f"{type(value).__name__}"
        )
