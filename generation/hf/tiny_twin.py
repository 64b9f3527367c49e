"""A tiny random model of the class of a given one."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

_LAYERS_MAX = 8
_PARAMETERS_MAX = 4_000_000
_SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "state_size": 8,
    "ssm_state_size": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "chunk_size": 16,
    "n_groups": 1,
    "max_position_embeddings": 64,
    "sliding_window": 16,
}
"""Fields of configs, by the name that most families use, and their largest values here."""
_KINDS_OF_LAYERS = ("layer_types", "layers_block_type")
"""Fields of configs with the kind of every layer, such as attention or recurrent."""


def tiny_twin(model: Any) -> Any | None:
    """Return a tiny random model of the same class on the CPU, in float32, or None.

    The class must be one of transformers: the constructor of a class from outside may do anything.
    A config of several models, and one that the class rejects in this size, give None too.
    The random state of torch is as before.
    """
    kind, config = type(model), model.config
    if not kind.__module__.startswith("transformers.") or config.get_text_config() is not config:
        return None
    try:
        tiny = _tiny_config(config)
        with torch.device("meta"):
            parameters = sum(each.numel() for each in kind(copy.deepcopy(tiny)).parameters())
        if parameters > _PARAMETERS_MAX:
            return None
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            return kind(tiny).float().eval()
    except Exception:  # a class may raise anything for sizes that it does not know
        return None


def _tiny_config(config: Any) -> Any:
    values = config.to_dict()
    values.pop("quantization_config", None)
    tiny = type(config).from_dict(values)
    for name, largest in _SIZES.items():
        size = getattr(tiny, name, None)
        if isinstance(size, int) and not isinstance(size, bool):
            setattr(tiny, name, min(size, largest))
    heads = getattr(config, "num_attention_heads", None)
    if heads is not None and heads == getattr(config, "num_key_value_heads", None):
        tiny.num_key_value_heads = tiny.num_attention_heads
    field = next((each for each in _KINDS_OF_LAYERS if getattr(config, each, None)), None)
    kinds: Sequence[str] = getattr(config, field) if field else ()
    layers = _prefix_of_all(kinds) if kinds else 2
    tiny.num_hidden_layers = min(config.num_hidden_layers, layers)
    # Some configs derive the list from the number of layers; it cannot be set there.
    if field and list(getattr(tiny, field)) != list(kinds[:layers]):
        setattr(tiny, field, list(kinds[:layers]))
    tiny.bos_token_id, tiny.eos_token_id, tiny.pad_token_id = 1, 2, 0
    return tiny


def _prefix_of_all(kinds: Sequence[str]) -> int:
    """Return how many of the first layers have every kind. Raise ValueError if they are many."""
    layers = max(kinds.index(kind) for kind in set(kinds)) + 1
    if layers > _LAYERS_MAX:
        raise ValueError(f"the {layers} first layers are needed for all kinds")
    return max(layers, min(2, len(kinds)))
