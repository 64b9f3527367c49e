"""The tensors of a model by name, and the values of a tensor in chunks."""

from collections.abc import Iterator
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.hf.packed_tensors import is_wrapper, scheme

# A chunk in float64 is 4 MB; statistics hold about six of them at once.
CHUNK_NUMBERS = 2**19


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters, buffers, and the packed weights of quantized layers, in this order.

    A tied tensor is listed under all its names.
    """
    found: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found |= model.named_buffers(remove_duplicate=False)
    for name, module in model.named_modules(remove_duplicate=False):
        if f"{name}.weight" not in found and callable(getattr(module, "weight", None)):
            weight = module.weight()
            if isinstance(weight, torch.Tensor):
                found[f"{name}.weight"] = weight
    return found


def quantization_of(tensor: torch.Tensor) -> str | None:
    """Return the quantization scheme of a tensor, or its packed class and how that packs.

    None for a plain tensor.
    """
    if tensor.is_quantized:
        return str(tensor.qscheme()).removeprefix("torch.")
    if is_wrapper(tensor):
        return scheme(tensor)
    return type(tensor).__name__ if _unpacks_itself(tensor) else None


def check_readable(name: str, tensor: torch.Tensor) -> None:
    """Raise ToolError for a tensor whose values cannot be read as real numbers."""
    if tensor.is_meta:
        raise ToolError(
            f"{name} is on the meta device and has no values: load all weights of the model"
        )
    if tensor.dtype.is_complex or (tensor.layout is not torch.strided and not _packed(tensor)):
        what = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
        raise ToolError(f"{name} has no real dense values ({what})")
    if not _packed(tensor) and (hasattr(tensor, "quant_state") or hasattr(tensor, "SCB")):
        raise ToolError(
            f"{name} is packed as {type(tensor).__name__}, which does not say how to unpack it: "
            "load the model without quantization"
        )


def iter_chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the values in order as float32 chunks, shape (at most CHUNK_NUMBERS,).

    Only one chunk is copied at a time, except if a packed tensor cannot be unpacked in parts.
    """
    # Detach the chunks only: a packed tensor loses its class, and with it `dequantize`.
    for block in _blocks(tensor):
        yield dequantized(block).detach().reshape(-1).to(torch.float32)


def unpacked_shape(tensor: torch.Tensor) -> list[int]:
    """Return the shape of the values, which differs from the shape of some packed tensors."""
    if not _unpacks_itself(tensor) or _rows_unpack(tensor):
        return list(tensor.shape)
    return list(dequantized(tensor).shape)


def _blocks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if tensor.numel() == 0:
        return
    if _unpacks_itself(tensor) and not _rows_unpack(tensor):
        tensor = dequantized(tensor)
    if not _packed(tensor) and tensor.is_contiguous():
        flat = tensor.reshape(-1)
        for start in range(0, flat.numel(), CHUNK_NUMBERS):
            yield flat[start : start + CHUNK_NUMBERS]
    elif tensor.numel() <= CHUNK_NUMBERS:
        yield tensor
    elif tensor.shape[0] == 1:
        yield from _blocks(tensor[0])
    else:
        rows = max(1, CHUNK_NUMBERS * tensor.shape[0] // tensor.numel())
        for start in range(0, tensor.shape[0], rows):
            yield from _blocks(tensor[start : start + rows])


def _packed(tensor: torch.Tensor) -> bool:
    return tensor.is_quantized or _unpacks_itself(tensor)


def _unpacks_itself(tensor: torch.Tensor) -> bool:
    """Return whether the tensor's class, of a quantization library, overrides `dequantize`."""
    method: Any = getattr(type(tensor), "dequantize", None)
    return method is not None and method is not torch.Tensor.dequantize


def _rows_unpack(tensor: torch.Tensor) -> bool:
    """Return whether rows of a packed tensor can be unpacked without the rest."""
    try:
        row = tensor[:1]
        return type(row) is type(tensor) and dequantized(row).shape == row.shape
    # A class that does not support slicing may raise anything.
    except Exception:
        return False


def dequantized(tensor: torch.Tensor) -> torch.Tensor:
    """Return the values of a packed tensor as a plain one, and a plain tensor as it is."""
    plain: torch.Tensor = tensor.dequantize() if _packed(tensor) else tensor
    return plain
