"""Hashes and samples of the bytes of a tensor."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch

_DIGEST_BYTES = 16
_SAMPLED_NUMBERS = 1024
# Largest piece that is copied of a tensor that is not contiguous or not in host memory.
_COPIED_BYTES = 16 * 1024**2
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def tensor_sha256(tensor: torch.Tensor) -> str:
    """Return the hexadecimal sha256 of the tensor's bytes."""
    return _hashed(hashlib.sha256(), tensor)


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return 128 bits of BLAKE2b over the tensor's bytes, in hexadecimal."""
    return _hashed(hashlib.blake2b(digest_size=_DIGEST_BYTES), tensor)


def tensor_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Yield the bytes in the order of the elements, without a copy if they are contiguous."""
    yield from _pieces(_integers(tensor))
    if tensor.is_quantized:
        yield memoryview(_scales(tensor).encode())


def tensor_sample(tensor: torch.Tensor) -> bytes:
    """Return the bytes of about 1,024 elements, spread evenly over the rows and columns."""
    integers = _integers(tensor)
    count = integers.numel()
    if count == 0:
        return b""
    stride = _stride(count, integers.shape[-1] if integers.dim() else 1)
    indices = torch.arange(0, count, stride, device=integers.device)
    sample = torch.take(integers, indices).cpu().numpy().tobytes()
    return sample + _scales(tensor).encode() if tensor.is_quantized else sample


def _stride(count: int, row_length: int) -> int:
    """Return the distance between sampled elements, coprime to the length of a row.

    The sample then covers every column of a matrix.
    """
    stride = max(1, count // _SAMPLED_NUMBERS)
    while math.gcd(stride, row_length) > 1:
        stride -= 1
    return stride


def _hashed(digest: Any, tensor: torch.Tensor) -> str:
    for piece in tensor_bytes(tensor):
        digest.update(piece)
    return str(digest.hexdigest())


def _integers(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same bits as integers, which numpy and `torch.take` support."""
    detached = tensor.detach()
    if detached.is_quantized:
        detached = detached.int_repr()
    if detached.is_complex():
        detached = torch.view_as_real(detached.resolve_conj())
    return detached.resolve_neg().view(_INTEGERS[detached.element_size()])


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
    """Return the scales and zero points of a quantized tensor."""
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return repr((tensor.q_scale(), tensor.q_zero_point()))
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return repr((scales.tolist(), zeros.tolist(), tensor.q_per_channel_axis()))
