"""Statistics of weight tensors, in full or in the few numbers that fit into a conversation."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch

from generation.errors import ToolError
from generation.fingerprints import tensor_sha256

COMPACT_FIELDS = ("name", "shape", "num_parameters", "mean", "std", "min", "max", "l2_norm")
_PERCENTILES = (5, 25, 50, 75, 95)
_NEAR_ZERO = 1e-6
_HISTOGRAM_BINS = 50


class WeightInspector:
    """Reads the parameters of a model. Statistics are computed in float32."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = dict(model.named_parameters())

    @property
    def names(self) -> list[str]:
        """The names of all parameters, in the order of the model."""
        return list(self._parameters)

    def tensor(self, layer_name: str) -> tuple[str, torch.Tensor]:
        """The parameter of that name; `.weight` may be left out.

        Raises ToolError, naming the nearest, where there is none.
        """
        for name in (layer_name, f"{layer_name}.weight"):
            if name in self._parameters:
                return name, self._parameters[name]
        near = difflib.get_close_matches(layer_name, self._parameters, n=3, cutoff=0.3)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise ToolError(f"there is no layer {layer_name!r}{hint}")

    def describe(self, layer_name: str) -> dict[str, Any]:
        """Which tensor a result was read from: name, shape, dtype and sha256."""
        name, tensor = self.tensor(layer_name)
        return {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "sha256": tensor_sha256(tensor),
        }

    def get_weight_statistics(
        self, layer_name: str | Sequence[str], compact: bool = False
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Statistics of one layer, or a list of them for a list of names.

        Compact: name, shape, num_parameters, mean, std, min, max, l2_norm, to four digits.
        Full adds median, abs_mean, zeros_percentage, near_zero_percentage (below 1e-6), l1_norm,
        histogram (bins, counts, edges) and percentiles 5, 25, 50, 75 and 95.
        """
        if not isinstance(layer_name, str):
            return [self._statistics(name, compact) for name in layer_name]
        return self._statistics(layer_name, compact)

    def _statistics(self, layer_name: str, compact: bool) -> dict[str, Any]:
        name, tensor = self.tensor(layer_name)
        values = tensor.detach().to(torch.float32).reshape(-1)
        basic = {
            "name": name,
            "shape": list(tensor.shape),
            "num_parameters": tensor.numel(),
            "mean": values.mean().item(),
            "std": values.std().item() if values.numel() > 1 else 0.0,
            "min": values.min().item(),
            "max": values.max().item(),
            "l2_norm": torch.linalg.vector_norm(values).item(),
        }
        if compact:
            return {key: _four_digits(value) for key, value in basic.items()}
        return basic | _full_statistics(values)


def _full_statistics(values: torch.Tensor) -> dict[str, Any]:
    magnitudes = values.abs()
    # torch.quantile refuses tensors of more than 16 million elements; sorting does not.
    ordered = values.sort().values
    last = ordered.numel() - 1
    counts, edges = torch.histogram(values.cpu(), bins=_HISTOGRAM_BINS)
    return {
        "median": ordered[last // 2].item(),
        "abs_mean": magnitudes.mean().item(),
        "zeros_percentage": 100.0 * (values == 0).float().mean().item(),
        "near_zero_percentage": 100.0 * (magnitudes < _NEAR_ZERO).float().mean().item(),
        "l1_norm": torch.linalg.vector_norm(values, ord=1).item(),
        "histogram": {
            "bins": _HISTOGRAM_BINS,
            "counts": [int(count) for count in counts.tolist()],
            "edges": edges.tolist(),
        },
        "percentiles": {
            str(percent): ordered[round(last * percent / 100)].item() for percent in _PERCENTILES
        },
    }


def _four_digits(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
