"""What interventions are made of: activations of forwards of their own, without a cache.

A forward ends at the layer that is asked for, so that it never makes logits. Nobody's hooks take
part in it: it is the plain model that is seen.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tokentape.generation.cache.policy import without_hooks
from tokentape.generation.checks import check_not_training, refuse_unreadable
from tokentape.generation.errors import ModelError
from tokentape.generation.hooks.hook_types import ReadOnlyHook
from tokentape.generation.hooks.layers import find_layer, output_of
from tokentape.generation.interventions.hooks import with_tensor
from tokentape.generation.models.memory_check import enough_memory


def capture(
    model: Any,
    ids: Sequence[int],
    layer: str | int,
    positions: tuple[int, int] | None = None,
) -> torch.Tensor:
    """What a layer gives at a half-open range of positions of a prompt, all of them for None.

    Float32, shape (positions, width): the rows of `Intervention.patch`. Raises ModelError and
    ToolError.
    """
    check_not_training(model)
    refuse_unreadable(model, ids)
    start, end = positions if positions is not None else (0, len(ids))
    if not 0 <= start < end <= len(ids):
        raise ModelError(f"positions {start} to {end} are not among the {len(ids)} of the prompt")
    return _activations(model, ids[:end], layer)[start:].clone()


def mean_activation(model: Any, prompts: Sequence[Sequence[int]], layer: str | int) -> torch.Tensor:
    """The mean of what a layer gives over all positions of some prompts: float32, (width,).

    For `Intervention.ablate`. Raises ModelError and ToolError.
    """
    total: torch.Tensor | None = None
    count = 0
    for ids in prompts:
        rows = capture(model, ids, layer).double()
        total = rows.sum(dim=0) if total is None else total + rows.sum(dim=0)
        count += len(rows)
    if total is None:
        raise ModelError("a mean needs at least one prompt")
    return (total / count).to(torch.float32)


def contrast(
    model: Any,
    towards: Sequence[Sequence[int]],
    away_from: Sequence[Sequence[int]],
    layer: str | int,
) -> torch.Tensor:
    """The difference of what a layer gives, on average, at the last tokens of two sets of prompts.

    Float32, (width,): for `Intervention.steer`. Raises ModelError and ToolError.
    """
    means = []
    for prompts in (towards, away_from):
        last = [capture(model, ids, layer, (len(ids) - 1, len(ids)))[0] for ids in prompts]
        if not last:
            raise ModelError("a contrast needs at least one prompt on each side")
        means.append(torch.stack(last).double().mean(dim=0))
    return (means[0] - means[1]).to(torch.float32)


def widths_of(model: Any, layers: Sequence[str]) -> dict[str, int]:
    """How many numbers each layer gives at a position.

    Raises ModelError where it gives none, or where they cannot be changed.
    """
    for layer in layers:
        if find_layer(model, layer)[1] is model.get_output_embeddings():
            raise ModelError(
                f"{layer} makes logits, and only those that are asked for: choose one before it, "
                "or a logits processor"
            )
    return {layer: _activations(model, (0, 0), layer).shape[-1] for layer in layers}


class _Seen(Exception):
    """What was looked for is there: the rest of the forward is spared."""


def _activations(model: Any, ids: Sequence[int], layer: str | int) -> torch.Tensor:
    """What a layer gives, float32 of shape (positions, width), on the CPU."""
    name, module = find_layer(model, layer)
    tensor = torch.tensor([list(ids)], dtype=torch.long, device=model.device)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        without_hooks(model),
        _seeing(module) as seen,
    ):
        try:
            with enough_memory(f"forward {len(ids)} tokens"):
                model(input_ids=tensor, use_cache=False)
        except _Seen:
            pass
    if not seen:
        raise ModelError(f"{name} takes no part in a forward: choose another layer")
    given = seen[0]
    if given.dim() != 3 or given.shape[:2] != (1, len(ids)):
        raise ModelError(
            f"{name} gives {tuple(given.shape)} for {len(ids)} positions: they cannot be told apart"
        )
    if not given.is_floating_point():
        raise ModelError(f"{name} gives {given.dtype}, no activations")
    return given[0].to("cpu", torch.float32)


@contextmanager
def _seeing(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    seen: list[torch.Tensor] = []

    def see(module: Any, args: Any, output: Any) -> None:
        given = output_of(output)
        with_tensor(output, given, given)
        seen.append(given)
        raise _Seen

    handle = module.register_forward_hook(ReadOnlyHook(see))
    try:
        yield seen
    finally:
        handle.remove()
