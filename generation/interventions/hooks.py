"""Forward hooks that change the outputs of layers at given positions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from tokentape.generation.errors import ModelError
from tokentape.generation.hooks.forward_positions import ForwardPositions
from tokentape.generation.hooks.hook_types import InterventionHook
from tokentape.generation.hooks.layers import find_layer, output_of, replace_tensor
from tokentape.recorder.projections.active_interventions import ActiveRange


@contextmanager
def apply_interventions(
    model: Any,
    ranges: Sequence[ActiveRange] | Callable[[], Sequence[ActiveRange]],
    forward: ForwardPositions,
    tensors: Mapping[str, torch.Tensor],
    *,
    layers: Iterable[str] = (),
) -> Iterator[None]:
    """Change the model's activations within the ranges while this context is open.

    `forward` holds the positions of the current forward (see `track_positions`), `tensors` are
    float32, by sha256. If `ranges` is a function it is called in each forward, and its ranges must
    name layers in `layers`. Positions outside of the ranges keep every bit.

    Raise ToolError for an unknown layer; in a forward, ModelError for a missing tensor and for a
    tensor or an output that does not fit.
    """
    current: Callable[[], Sequence[ActiveRange]]
    current = ranges if callable(ranges) else lambda given=tuple(ranges): given  # type: ignore[misc]
    named = dict.fromkeys(
        [*layers, *(layer for each in current() for layer in each.applied.layers)]
    )
    with ExitStack() as hooks:
        for name in named:
            module = find_layer(model, name)[1]
            hook = InterventionHook(_LayerHook(name, current, forward, tensors))
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


class _LayerHook:
    """Changes the output of one module, shape (batch, positions, width), at active positions."""

    def __init__(
        self,
        layer: str,
        ranges: Callable[[], Sequence[ActiveRange]],
        forward: ForwardPositions,
        tensors: Mapping[str, torch.Tensor],
    ) -> None:
        self._layer = layer
        self._ranges = ranges
        self._forward = forward
        self._tensors = tensors
        self._on_device: dict[str, torch.Tensor] = {}

    def __call__(self, module: Any, args: Any, output: Any) -> Any:
        start, end = self._forward.start, self._forward.end
        due = [
            (each, overlap)
            for each in self._ranges()
            if self._layer in each.applied.layers
            and (overlap := each.within(start, end)) is not None
        ]
        if not due:
            return None
        given = output_of(output)
        if given.dim() < 2 or given.shape[1] != end - start:
            raise ModelError(
                f"the output of {self._layer} has shape {tuple(given.shape)} for {end - start} "
                "positions: it has no axis of positions"
            )
        # A copy: other modules may read the same tensor.
        changed = given.clone()
        for each, (first, last) in due:
            self._change(changed, each, first, last)
        return replace_tensor(output, given, changed)

    def _change(self, activations: torch.Tensor, each: ActiveRange, first: int, last: int) -> None:
        """Change positions `first` to `last` in place; compute in float32, round once."""
        start, applied = self._forward.start, each.applied
        rows = activations[:, first - start : last - start]
        dimensions = list(applied.dimensions)
        chosen = rows[..., dimensions] if dimensions else rows
        changed = self._changed(chosen.to(torch.float32), each, first, last)
        if applied.kind == "placebo":
            changed = chosen
        if dimensions:
            rows[..., dimensions] = changed.to(rows.dtype)
        else:
            rows.copy_(changed)

    def _changed(
        self, numbers: torch.Tensor, each: ActiveRange, first: int, last: int
    ) -> torch.Tensor:
        applied = each.applied
        kind, coefficient = applied.kind, applied.coefficient
        if kind == "placebo":
            return numbers
        if kind == "ablate_zero":
            return torch.zeros_like(numbers)
        if kind == "scale":
            return numbers * (1.0 if coefficient is None else coefficient)
        tensor = self._tensor(applied.tensor_sha256, numbers.device)
        if kind == "patch":
            row = first - (each.tensor_start or 0)
            tensor = tensor[max(row, 0) : row + last - first] if tensor.dim() == 2 else tensor[:0]
            if len(tensor) != last - first:
                raise ModelError(
                    f"intervention {applied.name!r} has no rows for positions {first} to {last}"
                )
        if tensor.shape[-1] != numbers.shape[-1]:
            raise ModelError(
                f"intervention {applied.name!r} has a vector of width {tensor.shape[-1]}, but "
                f"changes {numbers.shape[-1]} dimensions of {self._layer}"
            )
        if kind == "steer":
            return numbers + (1.0 if coefficient is None else coefficient) * tensor
        return tensor.expand_as(numbers)

    def _tensor(self, sha256: str, device: torch.device) -> torch.Tensor:
        if sha256 not in self._on_device:
            if sha256 not in self._tensors:
                raise ModelError(f"the tensor {sha256[:12]}… of an intervention is missing")
            self._on_device[sha256] = self._tensors[sha256].to(device)
        return self._on_device[sha256]
