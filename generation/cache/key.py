"""The cache key: all that must be equal, in addition to the ids, for a KV cache to be valid."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.modules import module as torch_module
from transformers import GenerationConfig

from tokentape.generation.fingerprints.adapter_state import active_adapters
from tokentape.generation.fingerprints.functions import full_function_name
from tokentape.generation.fingerprints.weights_version import weights_version
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hf.caches import cache_kind
from tokentape.generation.hf.layer_cast import compute_dtype
from tokentape.generation.hooks.hook_types import foreign_hooks

_NONE = "none"
_ABSENT = (_NONE, "off", "None")
_NAMED_MAX = 3
# Fields of the config that do not influence the computation.
_UNKEYED = ("_name_or_path", "transformers_version")


def cache_key(model: Any, config: GenerationConfig | None = None) -> dict[str, str]:
    """Return the key under which a cache of this model is valid, field by field.

    `weights` and `hooks` identify objects of this process; the other fields mean the same in
    every process.
    """
    return {
        "weights": weights_version(model),
        "dtype": str(compute_dtype(model)),
        "autocast": autocast_of(model),
        "device": str(model.device),
        "attention_kernel": attention_kernel(model),
        "cache": cache_kind(config),
        "config": _config(model),
        "attributes": _attributes(model),
        "hooks": _hooks(model),
        "adapters": active_adapters(model),
    }


def recorded_key(key: Mapping[str, str]) -> dict[str, str]:
    """Return the parts of a key that mean the same in every process, for `CacheDecided`.

    Parts that are absent (`none`, `off`) are left out. Foreign hooks have no name: that there are
    some is recorded.
    """
    recorded = {name: value for name, value in key.items() if name != "weights"}
    if recorded.get("hooks", _NONE) != _NONE:
        recorded["hooks"] = "foreign"
    return {name: value for name, value in recorded.items() if value not in _ABSENT}


def autocast_of(model: Any) -> str:
    """Return the dtype of torch's autocast on the model's device, or `off`."""
    kind = model.device.type
    return str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "off"


def _config(model: Any) -> str:
    described = {
        name: value for name, value in model.config.to_dict().items() if name not in _UNKEYED
    }
    return _short_sha256(json.dumps(described, sort_keys=True, default=str))


def _attributes(model: Any) -> str:
    """Return a hash of the plain numbers among module attributes, e.g. the attention scale."""
    numbers = [
        (name, attribute, value)
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if type(value) in (int, float, bool) and not attribute.startswith("_")
    ]
    return _short_sha256(repr(numbers))


def _hooks(model: Any) -> str:
    """Return an identifier of the foreign hooks, which may change the output of a module.

    The names of their functions follow it. Interventions are hooks of our own. The salt of the ids
    (`cache.id_salt`) identifies them.
    """
    hooks: list[tuple[str, int, Any]] = [
        (name, number, hook)
        for name, module in model.named_modules()
        for number, hook in foreign_hooks(module).items()
    ]
    for everywhere in (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks):
        hooks += [("every module", number, hook) for number, hook in everywhere.items()]
    if not hooks:
        return _NONE
    functions = sorted({full_function_name(hook) for _, _, hook in hooks})
    return " ".join([str(hash(tuple(each[:2] for each in hooks))), *functions])


def difference_of(name: str, before: str, now: str) -> str:
    """Return which field of a key differs. Of `hooks`, with the functions of those that differ."""
    if name != "hooks":
        return name
    old, new = set(before.split(" ")[1:]), set(now.split(" ")[1:])
    functions = sorted(new - old or old - new or new)
    more = f" and {len(functions) - _NAMED_MAX} more" if len(functions) > _NAMED_MAX else ""
    return f"{name} of {', '.join(functions[:_NAMED_MAX])}{more}"


def _short_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
