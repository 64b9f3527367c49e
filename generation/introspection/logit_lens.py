"""What the model would say if it stopped at a layer: its output through the last norm and head."""

from collections.abc import Sequence
from typing import Any

import torch

from tokentape.generation.errors import ToolError
from tokentape.generation.hooks.forward_positions import RECOMPUTED
from tokentape.generation.hooks.layers import decoder_layers
from tokentape.generation.introspection.hidden_states import HiddenStateTap
from tokentape.generation.introspection.recomputing import absolute, forward_anew

_NORMS = ("norm", "ln_f", "norm_f", "final_layernorm", "final_layer_norm", "final_norm")


def lens_logits(
    model: Any, ids: Sequence[int], layers: Sequence[str | int], *, position: int, turn: int
) -> tuple[int, dict[str, torch.Tensor]]:
    """The absolute position, and by layer the logits of the token after it: float32, (vocab,).

    Raises ToolError for a layer whose output is not as wide as the residual stream.
    """
    norm, head = final_norm(model), model.get_output_embeddings()
    tap = HiddenStateTap(model, layers, sources=(RECOMPUTED,))
    place = absolute(position, len(ids))
    forward_anew(model, ids[: place + 1], turn=turn, watcher=tap)
    found = {}
    with torch.no_grad():
        for name, hidden in tap.newest.items():
            if hidden.shape[-1] != head.weight.shape[-1]:
                raise ToolError(
                    f"{name} gives {hidden.shape[-1]} numbers a token, and the head reads "
                    f"{head.weight.shape[-1]}: ask for decoder layers, such as 0 or -1"
                )
            # As a sequence of one token: some norms ask for all three axes.
            logits = head(norm(hidden[None, None].to(head.weight.device)))[0, 0].float()
            found[name] = _capped(model, logits)
    return place, found


def final_norm(model: torch.nn.Module) -> torch.nn.Module:
    """The norm beside the decoder layers. Raises ToolError for a model that has none."""
    stack = decoder_layers(model)[0][0].rsplit(".", 1)[0]
    parent = model.get_submodule(stack.rsplit(".", 1)[0] if "." in stack else "")
    for name in _NORMS:
        norm = getattr(parent, name, None)
        if isinstance(norm, torch.nn.Module):
            return norm
    raise ToolError(f"{type(model).__name__} has no norm after its layers that could be found")


def _capped(model: Any, logits: torch.Tensor) -> torch.Tensor:
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return cap * torch.tanh(logits / cap) if cap else logits
