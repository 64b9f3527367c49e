"""Packed weights: tensors of a quantization library that hold their bytes in other tensors."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
# Of the size of the tensor, not of how it is packed.
_SIZES = ("size", "stride", "dtype")
_UNSET = (None, "None", "none", False)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def is_wrapper(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has no bytes of its own, but other tensors that hold them.

    torchao and quanto pack weights in such classes: the numbers, the scales, the zero points.
    """
    return type(tensor) not in _PLAIN and is_traceable_wrapper_subclass(tensor)


def held_tensors(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors with bytes that a tensor consists of, with their names after a dot.

    A plain tensor yields itself, with an empty name. The order is that of the class.
    """
    if not is_wrapper(tensor):
        yield "", tensor
        return
    for attribute in _flattened(tensor)[0]:
        held = getattr(tensor, attribute)
        if isinstance(held, torch.Tensor):
            for name, each in held_tensors(held):
                yield f".{attribute}{name}", each


def packing(tensor: torch.Tensor) -> str:
    """Return the class of a packed tensor and how it is packed, without addresses in memory."""
    context = _flattened(tensor)[1]
    return f"{type(tensor).__name__} {_ADDRESS.sub('', repr(context))}"


def has_packed_weights(model: torch.nn.Module) -> bool:
    """Return whether any parameter has a class of its own, as those of quantization libraries."""
    return any(type(each) not in _PLAIN for each in model.parameters())


def scheme(tensor: torch.Tensor) -> str:
    """Return the class of a packed tensor and how it is packed, for people."""
    context = _flattened(tensor)[1]
    described = [
        f"{name} {value}"
        for name, value in (context.items() if isinstance(context, Mapping) else ())
        if name not in _SIZES and value not in _UNSET
    ]
    return ", ".join([type(tensor).__name__, *described])


def quantizes_activations(model: torch.nn.Module) -> bool:
    """Return whether packed weights are multiplied with activations that are rounded as well.

    Then a difference in the last bit of a float32 number can become one of a quantization step.
    """
    return any(_rounds_activations(each) for each in model.parameters() if is_wrapper(each))


def _rounds_activations(weight: torch.Tensor) -> bool:
    context = _flattened(weight)[1]
    settings = context.items() if isinstance(context, Mapping) else ()
    # Of torchao `act_quant_kwargs`, `activation_quantization` or a class, of quanto
    # `activation_qtype`.
    return "Activation" in type(weight).__name__ or any(
        name.startswith("act") and value not in _UNSET for name, value in settings
    )


def _flattened(tensor: torch.Tensor) -> tuple[list[str], Any]:
    names, context = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    return list(names), context
