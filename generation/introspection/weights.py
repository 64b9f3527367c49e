"""Statistics of weight tensors, full or compact enough for a conversation."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.fingerprints import tensor_sha256
from tokentape.generation.fingerprints.tensors import tensor_sample
from tokentape.generation.hf.packed_tensors import held_tensors
from tokentape.generation.hooks.layers import hint_of_nearest
from tokentape.generation.introspection.statistics import (
    basic_statistics,
    full_statistics,
    round_floats,
)
from tokentape.generation.introspection.tensor_chunks import (
    check_readable,
    iter_chunks,
    named_tensors,
    quantization_of,
    unpacked_shape,
)

COMPACT_FIELDS = ("name", "shape", "num_parameters", "mean", "std", "min", "max", "l2_norm")
_COMPACT_DIGITS = 4
_NAMES_SHOWN = 12


class WeightInspector:
    """Reads the current weights of a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._sums: dict[str, tuple[tuple[Any, ...], str]] = {}

    @property
    def names(self) -> list[str]:
        """The names of all parameters and buffers, in the order of the model."""
        return list(named_tensors(self._model))

    def tensor(self, layer_name: str) -> tuple[str, torch.Tensor]:
        """Return the full name and the parameter or buffer; `.weight` may be left out.

        Raise ToolError, with similar names, for an unknown one.
        """
        return self._find(layer_name, named_tensors(self._model))

    def describe(self, layer_name: str) -> dict[str, Any]:
        """Return name, shape, dtype and sha256 of a tensor, to record with a result."""
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
        """Return the statistics of one layer, or a list of them for a list of names.

        Compact statistics are name, shape, num_parameters, mean, std, min, max and l2_norm, to four
        digits. Full ones add median, abs_mean, zeros_percentage, near_zero_percentage (below 1e-6),
        l1_norm, histogram (bins, counts, edges), percentiles (5, 25, 50, 75, 95), dtype,
        computed_in, and for some tensors quantised and tied_to. `not_finite`, if present, is the
        number of values that the statistics leave out.
        """
        tensors = named_tensors(self._model)
        if isinstance(layer_name, str):
            return self._statistics(layer_name, tensors, compact)
        return [self._statistics(name, tensors, compact) for name in layer_name]

    def _statistics(
        self, layer_name: str, tensors: dict[str, torch.Tensor], compact: bool
    ) -> dict[str, Any]:
        name, tensor = self._find(layer_name, tensors)
        check_readable(name, tensor)
        shape = unpacked_shape(tensor)
        found = {
            "name": name,
            "shape": shape,
            "num_parameters": torch.Size(shape).numel(),
        }
        compute = basic_statistics if compact else full_statistics
        found |= compute(lambda: iter_chunks(tensor))
        if compact:
            return compact_weights(found)
        found |= {"dtype": _dtype(tensor), "computed_in": "float32"}
        quantised = quantization_of(tensor)
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
                f"{layer_name!r} is not a weight, but has {len(beneath)}: {shown}"
                + (f" and {more} more" if more > 0 else "")
            )
        raise ToolError(
            f"there is no layer {layer_name!r}{hint_of_nearest(str(layer_name), tensors)}"
        )

    def _sha256(self, name: str, tensor: torch.Tensor) -> str:
        """Return the tensor's sha256, cached until it is written to.

        torch counts writes to most tensors; a sample of the values detects the rest.
        """
        check_readable(name, tensor)
        if quantization_of(tensor) is not None and not tensor.is_quantized:
            return _sha256_of_numbers(tensor)
        writes = -1 if tensor.is_inference() else tensor._version
        address = 0 if tensor.is_quantized else tensor.data_ptr()
        state = (address, writes, hashlib.sha256(tensor_sample(tensor)).digest())
        known = self._sums.get(name)
        if known is None or known[0] != state:
            known = self._sums[name] = (state, tensor_sha256(tensor))
        return known[1]


def compact_weights(statistics: dict[str, Any]) -> dict[str, Any]:
    """Return the compact statistics among full ones, to four digits."""
    compact = {
        name: value
        for name, value in statistics.items()
        if name in COMPACT_FIELDS or name == "not_finite"
    }
    return {name: round_floats(value, _COMPACT_DIGITS) for name, value in compact.items()}


def _sha256_of_numbers(tensor: torch.Tensor) -> str:
    """Return the sha256 of the unpacked values; the layout of packed bytes is not stable."""
    digest = hashlib.sha256()
    for chunk in iter_chunks(tensor):
        digest.update(chunk.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _tied_to(name: str, tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> list[str]:
    """Return the other names of the same tensor."""
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
        and _addresses(one) == _addresses(other)
    )


def _addresses(tensor: torch.Tensor) -> list[int]:
    """Return where the bytes of a tensor are; a packed one has them in several tensors."""
    return [each.data_ptr() for _, each in held_tensors(tensor)]


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
