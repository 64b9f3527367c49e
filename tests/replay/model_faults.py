"""Random faults of a model: its config, the values of its modules, its code, its weights."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import tokentape as tt

Change = Callable[[Any, random.Random], str]
"""Changes a model in place and returns what it changed."""

CONFIG, CODE, WEIGHTS = frozenset({"config"}), frozenset({"model_code"}), frozenset({"weights"})
FACTORS = (0.5, 0.99, 1.001, 1.01, 1.3, 2.0)
EPSILONS = (1e-3, 1e-2, 0.1)


def rebuilt(model: Any, change: Callable[[Any], None]) -> Any:
    """Return a model of a changed config with the same weights."""
    config = copy.deepcopy(model.config)
    change(config)
    with torch.random.fork_rng(devices=[]):
        other = type(model)(config).eval().to(model.dtype)
    other.load_state_dict(model.state_dict())
    return other


def config_field(model: Any, draw: random.Random) -> tuple[Any, str]:
    """Return a model with another value of one field of its config, and the field."""
    fields: dict[str, Callable[[Any], None]] = {}

    def setting(name: str, values: tuple[Any, ...]) -> None:
        if hasattr(model.config, name):
            fields[name] = lambda config: setattr(config, name, draw.choice(values))

    setting("rms_norm_eps", EPSILONS)
    setting("layer_norm_epsilon", EPSILONS)
    setting("hidden_act", ("gelu", "relu", "tanh"))
    setting("hidden_activation", ("gelu", "relu", "silu"))
    setting("activation_function", ("gelu", "relu", "silu"))
    setting("sliding_window", (4, 9, 12))
    setting("final_logit_softcapping", (5.0, 30.0))
    setting("query_pre_attn_scalar", (128, 250))
    setting("scale_attn_weights", (False,))
    setting("scale_attn_by_inverse_layer_idx", (True,))
    if getattr(model.config, "sliding_window", 0) is None:
        fields.pop("sliding_window")
    if getattr(model.config, "rope_parameters", None):
        fields["rope_theta"] = lambda config: _scale_theta(config, draw.choice(FACTORS))
    name = draw.choice(sorted(fields))
    return rebuilt(model, fields[name]), name


def _scale_theta(config: Any, factor: float) -> None:
    rope = config.rope_parameters
    for each in [rope] if "rope_theta" in rope else rope.values():
        each["rope_theta"] *= factor


def live_config(model: Any, draw: random.Random) -> str:
    """Change a field that forwards may read from the config itself."""
    names = ("rms_norm_eps", "sliding_window", "final_logit_softcapping", "layer_norm_epsilon")
    name = draw.choice([each for each in names if hasattr(model.config, each)])
    setattr(model.config, name, 7 if name == "sliding_window" else 0.7)
    return name


def module_number(model: Any, draw: random.Random) -> str:
    """Multiply a number that a module holds."""
    held = [
        (path, module, name)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) is float and name not in ("attention_dropout", "p", "norm_type")
    ]
    path, module, name = draw.choice(held)
    before = getattr(module, name)
    setattr(module, name, before * draw.choice(FACTORS) if before > 1e-3 else draw.choice(EPSILONS))
    return f"{path}.{name}"


def buffer(model: Any, draw: random.Random) -> str:
    """Change one number of a buffer that is not saved; of models without one, an attribute."""
    held = [
        (path, module, name)
        for path, module in model.named_modules()
        for name in sorted(module._non_persistent_buffers_set)
        if "original" not in name
    ]
    if not held:
        return module_number(model, draw)
    path, module, name = draw.choice(held)
    tensor = getattr(module, name)
    with torch.no_grad():
        tensor.view(-1)[draw.randrange(tensor.numel())] *= draw.choice((0.9, 1.1, 2.0))
    return f"{path}.{name}"


def activation(model: Any, draw: random.Random) -> str:
    """Put another activation in the place of one."""
    names = ("act_fn", "act")
    held = [
        (path, module, name)
        for path, module in model.named_modules()
        for name in names
        if isinstance(getattr(module, name, None), nn.Module)
    ]
    path, module, name = draw.choice(held)
    setattr(module, name, draw.choice((nn.ReLU(), nn.Tanh(), nn.GELU(approximate="tanh"))))
    return f"{path}.{name}"


def instance_forward(model: Any, draw: random.Random) -> str:
    """Put another forward in the place of that of one module: a head zeroed, or a factor."""
    path, module = _matrix(model, draw)
    plain, width, factor = type(module).forward, draw.choice((4, 16)), draw.choice(FACTORS)

    def zeroed(self: Any, x: torch.Tensor) -> Any:
        x = x.clone()
        x[..., :width] = 0.0
        return plain(self, x)

    def scaled(self: Any, x: torch.Tensor) -> Any:
        return plain(self, x) * factor

    module.forward = MethodType(draw.choice((zeroed, scaled)), module)
    return f"{path}.forward"


def forward_hook(model: Any, draw: random.Random) -> str:
    """Register a forward hook that changes what a module returns, or is given."""
    path, module = _matrix(model, draw)
    factor = draw.choice(FACTORS)
    if draw.random() < 0.5:
        module.register_forward_hook(lambda module, args, output: output * factor)
    else:
        module.register_forward_pre_hook(lambda module, args: (args[0] * factor, *args[1:]))
    return f"hook of {path}"


def weight(model: Any, draw: random.Random) -> str:
    """Change one element of a matrix, or all by a little, sometimes past torch's counters."""
    path, module = _matrix(model, draw)
    tensor = module.weight
    with torch.no_grad():
        if draw.random() < 0.3:
            tensor.mul_(1.001)
        elif draw.random() < 0.5:
            tensor.data[1, 2] += 0.5
        else:
            tensor[3, 1] += 0.5
    return f"{path}.weight"


def adapter(model: Any, draw: random.Random) -> str:
    """Add a LoRA adapter with random weights."""
    from peft import LoraConfig

    target = "c_attn" if any("c_attn" in name for name, _ in model.named_modules()) else "v_proj"
    config = LoraConfig(
        r=2, target_modules=[target], init_lora_weights=False, fan_in_fan_out=target == "c_attn"
    )
    seed = draw.randrange(99)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.add_adapter(config)
    except ValueError as error:
        if "PEFT" not in str(error):
            raise
        pytest.skip(str(error))  # transformers needs one that is not out yet
    return "adapter"


def _matrix(model: Any, draw: random.Random) -> tuple[str, Any]:
    """Return a module with a matrix within a layer."""
    return draw.choice(
        [
            (path, module)
            for path, module in model.named_modules()
            if any(each.isdigit() for each in path) and getattr(module, "weight", None) is not None
            if module.weight.dim() == 2
        ]
    )


IN_PLACE: dict[str, tuple[Change, frozenset[str]]] = {
    "live config": (live_config, CONFIG),
    "number of a module": (module_number, CONFIG),
    "buffer": (buffer, CONFIG),
    "activation": (activation, CONFIG | CODE),
    "instance forward": (instance_forward, CODE),
    "forward hook": (forward_hook, CODE),
    "weight": (weight, WEIGHTS),
    "adapter": (adapter, WEIGHTS | {"adapters"}),
}
"""By name the change, and the causes that are right for it."""


@contextmanager
def patched_class(model: Any, draw: random.Random) -> Iterator[str]:
    """Within this context, a class of modules has another forward."""
    kinds = {type(each) for each in model.modules()}
    norms = sorted(
        (each for each in kinds if "Norm" in each.__name__), key=lambda each: each.__name__
    )
    kind = draw.choice(norms)
    plain, factor = kind.forward, draw.choice(FACTORS)
    with patch.object(kind, "forward", lambda self, x: plain(self, x) * factor):
        yield f"{kind.__name__}.forward"


@contextmanager
def patched_function(model: Any, draw: random.Random) -> Iterator[str]:
    """Within this context, a function of the modeling module, or of its masks, is another one."""
    import sys

    module = sys.modules[type(model).__module__]
    names = ("rotate_half", "create_causal_mask", "apply_rotary_pos_emb")
    name = draw.choice([each for each in names if hasattr(module, each)])
    plain, far = getattr(module, name), draw.choice((3, 6))

    def other(*args: Any, **kwargs: Any) -> Any:
        found = plain(*args, **kwargs)
        if name == "rotate_half":
            return found * 0.9
        if name == "apply_rotary_pos_emb":
            return found[0] * 1.05, found[1]
        embeds = kwargs["inputs_embeds"]
        held = kwargs.get("cache", kwargs.get("past_key_values"))
        start = held.get_seq_length() if held is not None else 0
        rows = torch.arange(start, start + embeds.shape[1])[:, None]
        columns = torch.arange(start + embeds.shape[1])[None]
        # The model does not see the last few positions before each.
        seen = (columns == rows) | (columns < rows - far)
        return seen[None, None]

    with patch.object(module, name, other):
        yield f"{module.__name__}.{name}"


@contextmanager
def patched_kernel(model: Any, draw: random.Random) -> Iterator[str]:
    """Within this context, the attention kernel uses another scale."""
    kernel = model.config._attn_implementation
    plain: Any = ALL_ATTENTION_FUNCTIONS[kernel]
    factor = draw.choice(FACTORS)

    def scaled(*args: Any, scaling: float | None = None, **kwargs: Any) -> Any:
        scale = (scaling or args[1].shape[-1] ** -0.5) * factor
        return plain(*args, scaling=scale, **kwargs)

    ALL_ATTENTION_FUNCTIONS[kernel] = scaled
    try:
        yield f"kernel {kernel}"
    finally:
        del ALL_ATTENTION_FUNCTIONS[kernel]


@contextmanager
def patched_torch(model: Any, draw: random.Random) -> Iterator[str]:
    """Within this context, a function of torch that models call is another one."""
    plain = nn.functional.linear

    def other(x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
        return plain(x, weight, bias) * 1.003

    with patch.object(nn.functional, "linear", other):
        yield "torch.nn.functional.linear"


PATCHED = {
    "class": patched_class,
    "function": patched_function,
    "kernel": patched_kernel,
    "torch": patched_torch,
}


def copy_of(lm: tt.LoadedModel) -> tt.LoadedModel:
    """Return a loaded model whose model is a copy."""
    return tt.LoadedModel(copy.deepcopy(lm.model), lm.tokenizer, lm.name)
