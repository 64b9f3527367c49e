"""The bytes of tensors: all of them, hashed where they lie, or a sample."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch

_DIGEST_BYTES = 16
_SAMPLED_NUMBERS = 1024
# What is copied at once of a tensor that does not lie in one piece, or not in this memory.
_COPIED_BYTES = 16 * 1024**2
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def tensor_sha256(tensor: torch.Tensor) -> str:
    return _hashed(hashlib.sha256(), tensor)


def tensor_digest(tensor: torch.Tensor) -> str:
    """128 bits of BLAKE2b, in hexadecimal."""
    return _hashed(hashlib.blake2b(digest_size=_DIGEST_BYTES), tensor)


def tensor_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Its bytes in the order of its elements. Nothing is copied that lies so in this memory."""
    yield from _pieces(_integers(tensor))
    if tensor.is_quantized:
        yield memoryview(_scales(tensor).encode())


def tensor_sample(tensor: torch.Tensor) -> bytes:
    """A few kilobytes of it: about 1,024 numbers, evenly spread over its rows and its columns."""
    integers = _integers(tensor)
    count = integers.numel()
    if count == 0:
        return b""
    stride = _stride(count, integers.shape[-1] if integers.dim() else 1)
    places = torch.arange(0, count, stride, device=integers.device)
    sample = torch.take(integers, places).cpu().numpy().tobytes()
    return sample + _scales(tensor).encode() if tensor.is_quantized else sample


def _stride(count: int, row_length: int) -> int:
    """The distance between sampled numbers: one that meets every column of a matrix in turn."""
    stride = max(1, count // _SAMPLED_NUMBERS)
    while math.gcd(stride, row_length) > 1:
        stride -= 1
    return stride


def _hashed(digest: Any, tensor: torch.Tensor) -> str:
    for piece in tensor_bytes(tensor):
        digest.update(piece)
    return str(digest.hexdigest())


def _integers(tensor: torch.Tensor) -> torch.Tensor:
    """The same bits, of a type that numpy knows and that can be gathered from."""
    plain = tensor.detach()
    if plain.is_quantized:
        plain = plain.int_repr()
    if plain.is_complex():
        plain = torch.view_as_real(plain.resolve_conj())
    return plain.resolve_neg().view(_INTEGERS[plain.element_size()])


def _pieces(integers: torch.Tensor) -> Iterator[memoryview]:
    if integers.numel() == 0:
        return
    if integers.device.type == "cpu" and integers.is_contiguous():
        yield integers.reshape(-1).view(torch.uint8).numpy().data
    elif integers.nbytes <= _COPIED_BYTES:
        yield from _pieces(integers.cpu().contiguous())
    elif integers.shape[0] == 1:
        yield from _pieces(integers[0])
    else:
        rows = max(1, integers.shape[0] * _COPIED_BYTES // integers.nbytes)
        for start in range(0, integers.shape[0], rows):
            yield from _pieces(integers[start : start + rows])


def _scales(tensor: torch.Tensor) -> str:
    """What the integers of a quantized tensor stand for."""
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return repr((tensor.q_scale(), tensor.q_zero_point()))
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return repr((scales.tolist(), zeros.tolist(), tensor.q_per_channel_axis()))
