"""The tensor operations of a model as a list, which runs without the Python code of its modules.

`torch.jit.trace` lists the tensor operations of one forward. The same operations on the same
tensors give the same bits. The weights are arguments of the list, so it holds none of them, and a
changed weight acts at once. What uses a trace proves its bits against the modules.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules import module as torch_module
from transformers.generation.utils import GenerationMixin

from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hf.caches import prefix_obstacle
from tokentape.generation.hf.layer_cast import stored_class
from tokentape.generation.hooks.hook_types import LockHook

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Values of `model_type` whose step has the same operations at every position.

Mixtures of experts choose their operations by the numbers, which a trace cannot.
"""


def trace_obstacle(model: Any) -> str | None:
    """Return why the steps of a model cannot be traced now, or None.

    A model is traced only on a CPU: on a GPU torch fuses traced operations, which changes bits.
    """
    if getattr(model.config, "model_type", None) not in FAMILIES:
        return "family"
    if _modes_are_active() or not all(map(_is_plain, model.modules())):
        return "hooks"
    if attention_kernel(model) != "sdpa":
        return "attention kernel"
    if prefix_obstacle(model) is not None:
        return "positions that depend on the length"
    if not _has_common_steps(model):
        return "steps of its own"
    for module in model.modules():
        kind = type(module)
        if stored_class(kind) is not kind:
            return "computed in another dtype"
        if not kind.__module__.startswith(("torch.nn.", "transformers.")) or module.training:
            return f"module {kind.__name__}"
    for each in (*model.parameters(), *model.buffers()):
        if type(each) not in (torch.Tensor, torch.nn.Parameter) or each.device.type != "cpu":
            return "weights"
    return None


def _is_plain(module: torch.nn.Module) -> bool:
    """Return whether calling a module runs the `forward` of its class and no hook."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and "forward" not in vars(module)


def _has_common_steps(model: Any) -> bool:
    """Return whether what `generate` does between forwards is that of most models."""
    names = ("prepare_inputs_for_generation", "_update_model_kwargs_for_generation")
    return all(getattr(type(model), name) is getattr(GenerationMixin, name) for name in names)


@dataclass(frozen=True, slots=True, eq=False)
class TracedModel:
    """The operations of a forward of one model."""

    graph: Callable[..., torch.Tensor]
    weights: tuple[tuple[dict[str, Any], str], ...]
    """Where the model holds each of its weights and buffers."""
    hooks: tuple[Mapping[int, Any], ...]
    """The hooks of each module, which are empty if the trace can be used."""
    attributes: tuple[dict[str, Any], ...]
    """The attributes of each module: a `forward` among them replaces that of the class."""
    forwards: tuple[tuple[Any, Any], ...]
    """The classes of the modules, and their `forward` when they were traced."""

    def applies(self, *, locked: bool = False) -> bool:
        """Return whether the modules would run these operations, and no other code, now.

        `locked` says that the caller has done what a `LockHook` does.
        """
        return (
            torch.is_inference_mode_enabled()
            and not any(each for each in self.hooks if not (locked and _only_lock(each)))
            and not any("forward" in each for each in self.attributes)
            and all(kind.forward is forward for kind, forward in self.forwards)
            and not _modes_are_active()
        )

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return what the traced function returns for these inputs, with the weights of now."""
        weights = [owner[name] for owner, name in self.weights]
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self.graph(*inputs, *weights)


def _only_lock(hooks: Mapping[int, Any]) -> bool:
    return all(isinstance(each, LockHook) for each in hooks.values())


def _modes_are_active() -> bool:
    """Return whether hooks on all modules, autocast or a mode of torch see the operations."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_function_stack()
        or torch._C._len_torch_dispatch_stack()
    )


def trace_model(
    model: Any, function: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]
) -> TracedModel | str:
    """Trace `function`, which is called with a copy of the model and the inputs.

    Return why if it cannot be traced. The model is not touched: its copy has the same weights.
    """
    places = _places(model)
    # Tied weights are one tensor in several places, and one argument.
    tensors = {id(owner[name]): owner[name] for owner, name in places}
    numbers = {key: number for number, key in enumerate(tensors)}
    try:
        twin = copy.deepcopy(model, dict(tensors))
        slots = [(place, numbers[id(place[0][place[1]])]) for place in _places(twin)]

        def with_weights(*given: torch.Tensor) -> torch.Tensor:
            for (owner, name), number in slots:
                owner[name] = given[len(inputs) + number]
            return function(twin, *given[: len(inputs)])

        with warnings.catch_warnings():
            # Sizes that are the same at every step become numbers; a release may deprecate it.
            warnings.simplefilter("ignore")
            graph = torch.jit.trace(  # type: ignore[no-untyped-call]
                with_weights, (*inputs, *tensors.values()), check_trace=False
            )
    except Exception as error:  # a model may do anything that cannot be traced
        return f"{type(error).__name__} while it was traced"
    for (owner, name), _ in slots:
        owner[name] = None  # the graph refers to the twin, which would keep these weights
    first: dict[int, tuple[dict[str, Any], str]] = {}
    for owner, name in places:
        first.setdefault(id(owner[name]), (owner, name))
    modules = tuple(model.modules())
    return TracedModel(
        graph=graph,
        weights=tuple(first.values()),
        hooks=tuple(
            hooks for each in modules for hooks in (each._forward_hooks, each._forward_pre_hooks)
        ),
        attributes=tuple(vars(each) for each in modules),
        forwards=tuple({type(each): type(each).forward for each in modules}.items()),
    )


def _places(model: Any) -> list[tuple[dict[str, Any], str]]:
    """Return where a model holds its weights and buffers: the mapping of a module, and the name."""
    return [
        (owner, name)
        for module in model.modules()
        for owner in (module._parameters, module._buffers)
        for name, tensor in owner.items()
        if tensor is not None
    ]
