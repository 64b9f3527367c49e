"""Statistics of weight tensors, in full or in the few numbers that fit into a conversation."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.fingerprints import tensor_sha256
from tokentape.generation.fingerprints.tensors import tensor_sample
from tokentape.generation.hooks.layers import hint_of_nearest
from tokentape.generation.introspection.chunks import (
    chunks_of,
    named_tensors,
    quantisation_of,
    refuse_unreadable,
    unpacked_shape,
)
from tokentape.generation.introspection.rounding import rounded
from tokentape.generation.introspection.statistics import basic_statistics, full_statistics

COMPACT_FIELDS = ("name", "shape", "num_parameters", "mean", "std", "min", "max", "l2_norm")
_COMPACT_DIGITS = 4
_NAMES_SHOWN = 12


class WeightInspector:
    """Reads the weights of a model, as they are when they are asked for."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._sums: dict[str, tuple[tuple[Any, ...], str]] = {}

    @property
    def names(self) -> list[str]:
        """The names of all parameters and buffers, in the order of the model."""
        return list(named_tensors(self._model))

    def tensor(self, layer_name: str) -> tuple[str, torch.Tensor]:
        """The parameter or buffer of that name; `.weight` may be left out.

        Raises ToolError, naming the nearest, where there is none.
        """
        return self._find(layer_name, named_tensors(self._model))

    def describe(self, layer_name: str) -> dict[str, Any]:
        """Which tensor a result was read from: name, shape, dtype and sha256."""
        name, tensor = self.tensor(layer_name)
        return {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": _dtype(tensor),
            "sha256": self._sha256(name, tensor),
        }

    def get_weight_statistics(
        self, layer_name: str | Sequence[str], compact: bool = False
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Statistics of one layer, or a list of them for a list of names.

        Compact: name, shape, num_parameters, mean, std, min, max, l2_norm, to four digits.
        Full adds median, abs_mean, zeros_percentage, near_zero_percentage (below 1e-6), l1_norm,
        histogram (bins, counts, edges) and percentiles 5, 25, 50, 75 and 95; also dtype,
        computed_in, and where they apply quantised and tied_to. `not_finite`, where it is there,
        counts the numbers that the others leave out.
        """
        tensors = named_tensors(self._model)
        if isinstance(layer_name, str):
            return self._statistics(layer_name, tensors, compact)
        return [self._statistics(name, tensors, compact) for name in layer_name]

    def _statistics(
        self, layer_name: str, tensors: dict[str, torch.Tensor], compact: bool
    ) -> dict[str, Any]:
        name, tensor = self._find(layer_name, tensors)
        refuse_unreadable(name, tensor)
        shape = unpacked_shape(tensor)
        found = {
            "name": name,
            "shape": shape,
            "num_parameters": torch.Size(shape).numel(),
        }
        compute = basic_statistics if compact else full_statistics
        found |= compute(lambda: chunks_of(tensor))
        if compact:
            return compact_of(found)
        found |= {"dtype": _dtype(tensor), "computed_in": "float32"}
        quantised = quantisation_of(tensor)
        tied = _tied_to(name, tensor, tensors)
        if quantised is not None:
            found["quantised"] = quantised
        return found | ({"tied_to": tied} if tied else {})

    def _find(self, layer_name: str, tensors: dict[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
        for name in (str(layer_name), f"{layer_name}.weight"):
            if name in tensors:
                return name, tensors[name]
        beneath = [name for name in tensors if name.startswith(f"{layer_name}.")]
        if beneath and layer_name:
            shown = ", ".join(beneath[:_NAMES_SHOWN])
            more = len(beneath) - _NAMES_SHOWN
            raise ToolError(
                f"{layer_name!r} is no weight, but has {len(beneath)}: {shown}"
                + (f" and {more} more" if more > 0 else "")
            )
        raise ToolError(
            f"there is no layer {layer_name!r}{hint_of_nearest(str(layer_name), tensors)}"
        )

    def _sha256(self, name: str, tensor: torch.Tensor) -> str:
        """Kept until torch counts a write to the tensor, or a sample of its numbers differs."""
        refuse_unreadable(name, tensor)
        if quantisation_of(tensor) is not None and not tensor.is_quantized:
            return _sha256_of_numbers(tensor)
        writes = -1 if tensor.is_inference() else tensor._version
        place = 0 if tensor.is_quantized else tensor.data_ptr()
        state = (place, writes, hashlib.sha256(tensor_sample(tensor)).digest())
        known = self._sums.get(name)
        if known is None or known[0] != state:
            known = self._sums[name] = (state, tensor_sha256(tensor))
        return known[1]


def compact_of(statistics: dict[str, Any]) -> dict[str, Any]:
    """The few of them that fit into a conversation, to four digits."""
    kept = {
        name: value
        for name, value in statistics.items()
        if name in COMPACT_FIELDS or name == "not_finite"
    }
    return {name: rounded(value, _COMPACT_DIGITS) for name, value in kept.items()}


def _sha256_of_numbers(tensor: torch.Tensor) -> str:
    """Of what a tensor of other people unpacks to: how its bytes lie is its own affair."""
    digest = hashlib.sha256()
    for chunk in chunks_of(tensor):
        digest.update(chunk.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _tied_to(name: str, tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> list[str]:
    """The other names of the same numbers."""
    return [other for other, each in tensors.items() if other != name and _are_same(each, tensor)]


def _are_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one is other:
        return True
    plain = not (one.is_meta or one.is_quantized or other.is_quantized)
    return (
        plain
        and one.numel() > 0
        and one.layout is other.layout is torch.strided
        and (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        and one.stride() == other.stride()
        and one.data_ptr() == other.data_ptr()
    )


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
