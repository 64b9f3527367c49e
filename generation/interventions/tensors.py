"""Store vectors as safetensors, a format that runs no code when it is read."""

import hashlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from tokentape.generation.errors import ModelError

_NAME = "tensor"


def tensor_to_bytes(tensor: torch.Tensor) -> bytes:
    """Return a tensor as the bytes of a safetensors file, in float32."""
    payload: bytes = save({_NAME: tensor.detach().to("cpu", torch.float32).contiguous()})
    return payload


def tensor_from_bytes(payload: bytes, sha256: str) -> torch.Tensor:
    """Return the tensor that `tensor_to_bytes` wrote.

    Raise ModelError if the bytes do not have this sha256 or are not such a file.
    """
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise ModelError(f"the tensor {sha256[:12]}… is damaged: its bytes have another sha256")
    try:
        tensor: torch.Tensor = load(payload)[_NAME]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"the payload {sha256[:12]}… is not a safetensors file: {error}") from None
    if tensor.dtype != torch.float32:
        raise ModelError(f"the tensor {sha256[:12]}… is {tensor.dtype}, not float32")
    return tensor
