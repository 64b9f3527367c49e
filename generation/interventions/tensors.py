"""Vectors as payloads: safetensors, which runs no code when it is read."""

import hashlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from tokentape.generation.errors import ModelError

_NAME = "tensor"


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """A float32 tensor as the bytes of a safetensors file."""
    payload: bytes = save({_NAME: tensor.detach().to("cpu", torch.float32).contiguous()})
    return payload


def tensor_from(payload: bytes, sha256: str) -> torch.Tensor:
    """What `tensor_bytes` wrote. Raises ModelError for anything else, or another sum."""
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise ModelError(f"the tensor {sha256[:12]}… is damaged: it does not have its sha256")
    try:
        tensor: torch.Tensor = load(payload)[_NAME]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"the payload {sha256[:12]}… holds no tensor: {error}") from None
    if tensor.dtype != torch.float32:
        raise ModelError(f"the tensor {sha256[:12]}… is {tensor.dtype}, not float32")
    return tensor
