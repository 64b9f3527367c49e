"""Activations to build interventions from: captured, averaged, contrasted.

A prompt is a sequence of ids, or a text, which the tokenizer of a `LoadedModel` encodes. Each
prompt takes one forward without a cache and without hooks. It stops at the captured layer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tokentape.generation.checks import check_adapters, check_not_training, check_prompt_ids
from tokentape.generation.errors import ModelError
from tokentape.generation.hooks.hook_types import ReadOnlyHook, without_hooks
from tokentape.generation.hooks.layers import find_layer, output_of, replace_tensor
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.models.memory_check import enough_memory
from tokentape.recorder.plain_values import plain_value

Prompt = str | Sequence[int]
Prompts = Sequence[Prompt]


def capture(
    model: Any,
    ids: Prompt,
    layer: str | int,
    positions: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Return a layer's output at a half-open range of a prompt's positions, by default at all.

    `model` is a `LoadedModel`, or a model of transformers if `ids` is not a text.

    The result is float32 on the CPU, shape (positions, width): the rows of `Intervention.patch`.
    Raise ModelError for positions outside the prompt or an output without positions, ToolError for
    an unknown layer.

    Example:
        >>> import tokentape as tt
        >>> rows = tt.capture(lm, "The capital of France", 1, (0, 2))
        >>> rows.shape == (2, lm.model.config.hidden_size)
        True
    """
    ids, positions = _ids_of(model, ids), plain_value(positions)
    model = model.model if isinstance(model, LoadedModel) else model
    check_not_training(model)
    check_adapters(model)
    check_prompt_ids(model, ids)
    start, end = positions if positions is not None else (0, len(ids))
    if not 0 <= start < end <= len(ids):
        raise ModelError(
            f"positions {start} to {end} are not within the {len(ids)} positions of the prompt"
        )
    return _activations(model, ids[:end], layer)[start:].clone()


def mean_activation(model: Any, prompts: Prompts, layer: str | int) -> torch.Tensor:
    """Return the mean of a layer's output over all positions of some prompts.

    The result is float32, shape (width,): the `mean` of `Intervention.ablate`. Raise ModelError
    without a prompt, otherwise as `capture`.

    Example:
        >>> import tokentape as tt
        >>> mean = tt.mean_activation(lm, ["yes", "no", "perhaps"], 1)
        >>> mean.shape == (lm.model.config.hidden_size,)
        True
    """
    total: torch.Tensor | None = None
    count = 0
    for each in _listed(prompts):
        rows = capture(model, each, layer).double()
        total = rows.sum(dim=0) if total is None else total + rows.sum(dim=0)
        count += len(rows)
    if total is None:
        raise ModelError("a mean needs at least one prompt")
    return (total / count).to(torch.float32)


def contrast(
    model: Any,
    towards: Prompts,
    away_from: Prompts,
    layer: str | int,
) -> torch.Tensor:
    """Return the mean output at the last token of one set of prompts minus that of another.

    The result is float32, shape (width,): a steering vector for `Intervention.steer`. Raise
    ModelError if one set is empty, otherwise as `capture`.

    Example:
        >>> import tokentape as tt
        >>> vector = tt.contrast(lm, ["Thank you", "Please"], ["Go away"], layer=1)
        >>> steering = tt.Intervention.steer("polite", 1, vector, coefficient=4.0)
        >>> steering.kind
        'steer'
    """
    means = []
    for prompts in (towards, away_from):
        ids = [_ids_of(model, each) for each in _listed(prompts)]
        last = [capture(model, each, layer, (len(each) - 1, len(each)))[0] for each in ids]
        if not last:
            raise ModelError("a contrast needs at least one prompt on each side")
        means.append(torch.stack(last).double().mean(dim=0))
    return (means[0] - means[1]).to(torch.float32)


def _listed(prompts: Prompts) -> Sequence[Prompt]:
    return [prompts] if isinstance(prompts, str) else prompts


def _ids_of(model: Any, prompt: Prompt) -> Sequence[int]:
    """Return the ids of a prompt. Raise ModelError for a text without a tokenizer."""
    if not isinstance(prompt, str):
        ids: Sequence[int] = plain_value(prompt)
        return ids
    if not isinstance(model, LoadedModel):
        raise ModelError(
            "a text needs a tokenizer: give the LoadedModel (`lm`, not `lm.model`), or token ids"
        )
    encoded: list[int] = model.tokenizer(prompt).input_ids
    if not encoded:
        raise ModelError(f"the tokenizer makes no token of the text {prompt!r}")
    return encoded


def output_widths(model: Any, layers: Sequence[str]) -> dict[str, int]:
    """Return the width of each layer's output, measured by a short forward.

    Raise ModelError if a layer is not used or its output cannot be changed.
    """
    for layer in layers:
        if find_layer(model, layer)[1] is model.get_output_embeddings():
            raise ModelError(
                f"{layer} computes logits, of the last position only: choose an earlier layer, "
                "or use a logits processor"
            )
    return {layer: _activations(model, (0, 0), layer).shape[-1] for layer in layers}


class _StopForward(Exception):
    """Ends a forward after the layer to capture."""


def _activations(model: Any, ids: Sequence[int], layer: str | int) -> torch.Tensor:
    """Return a layer's output for a prompt: float32, shape (positions, width), on the CPU."""
    name, module = find_layer(model, layer)
    tensor = torch.tensor([list(ids)], dtype=torch.long, device=model.device)
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        exclusive_use(model),
        without_hooks(model),
        _capturing(module) as captured,
    ):
        try:
            with enough_memory(f"forward {len(ids)} tokens"):
                model(input_ids=tensor, use_cache=False)
        except _StopForward:
            pass
    if not captured:
        raise ModelError(f"{name} is not used in a forward: choose another layer")
    given = captured[0]
    if given.dim() != 3 or given.shape[:2] != (1, len(ids)):
        raise ModelError(
            f"the output of {name} has shape {tuple(given.shape)} for {len(ids)} positions: it "
            "has no axis of positions"
        )
    if not given.is_floating_point():
        raise ModelError(f"the output of {name} is {given.dtype}, not floating-point")
    return given[0].to("cpu", torch.float32)


@contextmanager
def _capturing(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    captured: list[torch.Tensor] = []

    def capture_output(module: Any, args: Any, output: Any) -> None:
        given = output_of(output)
        replace_tensor(output, given, given)
        captured.append(given)
        raise _StopForward

    handle = module.register_forward_hook(ReadOnlyHook(capture_output))
    try:
        yield captured
    finally:
        handle.remove()
