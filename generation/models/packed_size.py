"""The bytes of weights that quanto packs, reckoned from the shapes of the unpacked ones."""

from typing import Any

import torch

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.layer_cast import weights_dtype

PACKED_BITS = {"int8": 8, "float8": 8, "int4": 4, "int2": 2}
"""Bits of a packed number, by the short names of `load_model(quantization=)`."""
_GROUP, _GROUP_MIN, _GROUP_STEP = 128, 32, 32


def packed_bytes(model: Any, quantization: str) -> int:
    """Return the bytes of all parameters with the linear layers packed, except for the head.

    Raise ModelError for a name that is not one of `PACKED_BITS`.
    """
    bits = PACKED_BITS.get(quantization)
    if bits is None:
        names = ", ".join(PACKED_BITS)
        raise ModelError(f"the size of weights in {quantization!r} is not known: there are {names}")
    head, size = model.get_output_embeddings(), weights_dtype(model).itemsize
    packed = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    total: int = sum(
        each.numel() * each.element_size() for each in model.parameters() if id(each) not in packed
    )
    for weight in packed.values():
        scales = weight.shape[0] if bits == 8 else 2 * weight.numel() // _group(weight.shape[1])
        total += weight.numel() * bits // 8 + scales * size
    return total


def _group(row: int) -> int:
    """Return how many numbers of a row share a scale and a shift, below 8 bits.

    Source: `QModuleMixin` of optimum-quanto.
    """
    group = _GROUP
    while row % group and group > _GROUP_MIN:
        group -= _GROUP_STEP
    return group if row > _GROUP and not row % group else row
