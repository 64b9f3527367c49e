"""The tensors of a model by name, and the numbers of one, a chunk at a time."""

from collections.abc import Iterator
from typing import Any

import torch

from tokentape.generation.errors import ToolError

# Float64 of a chunk is 4 MB; some six of that size are there at once.
CHUNK_NUMBERS = 2**19


def named_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters, then buffers, then weights that a quantized layer packs away.

    One that has several names is there under each.
    """
    found: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found |= model.named_buffers(remove_duplicate=False)
    for name, module in model.named_modules(remove_duplicate=False):
        if f"{name}.weight" not in found and callable(getattr(module, "weight", None)):
            weight = module.weight()
            if isinstance(weight, torch.Tensor):
                found[f"{name}.weight"] = weight
    return found


def quantisation_of(tensor: torch.Tensor) -> str | None:
    """How the numbers of a tensor are packed, or None where they are not."""
    if tensor.is_quantized:
        return str(tensor.qscheme()).removeprefix("torch.")
    return type(tensor).__name__ if _unpacks_itself(tensor) else None


def refuse_unreadable(name: str, tensor: torch.Tensor) -> None:
    """Raises ToolError for a tensor without numbers that statistics could be made of."""
    if tensor.is_meta:
        raise ToolError(f"{name} is on the meta device and has no values: load the model whole")
    if tensor.dtype.is_complex or (tensor.layout is not torch.strided and not _packed(tensor)):
        what = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
        raise ToolError(f"{name} has no plain numbers ({what})")
    if not _packed(tensor) and (hasattr(tensor, "quant_state") or hasattr(tensor, "SCB")):
        raise ToolError(
            f"{name} is packed as {type(tensor).__name__}, which does not say how to unpack it: "
            "load the model without quantization"
        )


def chunks_of(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Its numbers in order, float32, shape (at most CHUNK_NUMBERS,).

    Nothing larger is copied, but where a packed tensor can only be unpacked whole.
    """
    # Not detached as a whole: what is not of its class any more cannot unpack itself.
    for block in _blocks(tensor):
        yield _unpacked(block).detach().reshape(-1).to(torch.float32)


def unpacked_shape(tensor: torch.Tensor) -> list[int]:
    """The shape of the numbers, which may be packed into another."""
    if not _unpacks_itself(tensor) or _rows_unpack(tensor):
        return list(tensor.shape)
    return list(_unpacked(tensor).shape)


def _blocks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if tensor.numel() == 0:
        return
    if _unpacks_itself(tensor) and not _rows_unpack(tensor):
        tensor = _unpacked(tensor)
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
    """Every tensor has `dequantize`; those of quantizing libraries have their own."""
    own: Any = getattr(type(tensor), "dequantize", None)
    return own is not None and own is not torch.Tensor.dequantize


def _rows_unpack(tensor: torch.Tensor) -> bool:
    """Whether some rows of a tensor that unpacks itself are such a tensor as well."""
    try:
        row = tensor[:1]
        return type(row) is type(tensor) and _unpacked(row).shape == row.shape
    # Whatever a class of other people raises that was not made to be cut.
    except Exception:
        return False


def _unpacked(tensor: torch.Tensor) -> torch.Tensor:
    plain: torch.Tensor = tensor.dequantize() if _packed(tensor) else tensor
    return plain
