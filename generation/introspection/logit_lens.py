"""The logit lens: next-token logits from a layer's output, through the final norm and head."""

from collections.abc import Sequence
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.hooks.forward_positions import RECOMPUTED
from tokentape.generation.hooks.layers import decoder_layers
from tokentape.generation.introspection.hidden_states import HiddenStateTap
from tokentape.generation.introspection.recompute import absolute_position, recompute

_NORMS = ("norm", "ln_f", "norm_f", "final_layernorm", "final_layer_norm", "final_norm")


def layer_logits(
    model: Any, ids: Sequence[int], layers: Sequence[str | int], *, position: int, turn: int
) -> tuple[int, dict[str, torch.Tensor]]:
    """Return the absolute position, and by layer the logits of the next token there.

    Logits are float32, shape (vocab,). Raise ToolError for a layer whose output does not have the
    width of the residual stream.
    """
    norm, head = final_norm(model), model.get_output_embeddings()
    tap = HiddenStateTap(model, layers, sources=(RECOMPUTED,))
    index = absolute_position(position, len(ids))
    recompute(model, ids[: index + 1], turn=turn, observer=tap)
    found = {}
    with torch.no_grad():
        for name, hidden in tap.latest.items():
            if hidden.shape[-1] != head.weight.shape[-1]:
                raise ToolError(
                    f"the output of {name} has width {hidden.shape[-1]}, but the head needs "
                    f"{head.weight.shape[-1]}: choose decoder layers, such as 0 or -1"
                )
            # As a sequence of one token: some norms need all three axes.
            logits = head(norm(hidden[None, None].to(head.weight.device)))[0, 0].float()
            found[name] = _capped(model, logits)
    return index, found


def final_norm(model: torch.nn.Module) -> torch.nn.Module:
    """Return the norm after the decoder layers. Raise ToolError if it is not found."""
    stack = decoder_layers(model)[0][0].rsplit(".", 1)[0]
    parent = model.get_submodule(stack.rsplit(".", 1)[0] if "." in stack else "")
    for name in _NORMS:
        norm = getattr(parent, name, None)
        if isinstance(norm, torch.nn.Module):
            return norm
    raise ToolError(f"{type(model).__name__} has no final norm under a known name")


def _capped(model: Any, logits: torch.Tensor) -> torch.Tensor:
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits
