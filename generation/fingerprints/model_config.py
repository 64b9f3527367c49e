"""The fields of a model's config that are recorded, and which of them its numbers depend on."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

_FIELDS_MAX = 512
_DEPTH_MAX = 6
_TEXT_CHARS = 200
_LIST_CHARS = 300
_PLAIN_LIST = 16

_NOT_RECORDED = frozenset(
    {
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "id2label",
        "label2id",
        "name_or_path",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
    }
)
"""Names, and what has a field of its own in `RunStarted`: dtype, versions, weights."""
_WITHOUT_EFFECT = frozenset(
    {
        "chunk_size_feed_forward",
        "gradient_checkpointing",
        "initializer_cutoff_factor",
        "initializer_factor",
        "initializer_range",
        "is_encoder_decoder",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "output_scores",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "rescale_prenorm_residual",
        "return_dict",
        "return_dict_in_generate",
        "router_aux_loss_coef",
        "task_specific_params",
        "tokenizer_class",
        "torchscript",
        "use_cache",
    }
)
_WITHOUT_EFFECT_ENDS = ("_token_id", "_token_ids", "dropout", "_pdrop", "_jitter_noise")
"""Tokens that settings override, and noise that acts in training only."""
_WITHOUT_EFFECT_STARTS = ("summary_", "forced_")


def config_fields(model: Any) -> dict[str, Any]:
    """Return the plain fields of a model's config, those of nested configs under dotted names.

    For example `rope_parameters.rope_theta` and `text_config.rms_norm_eps`. Values are numbers,
    texts, booleans and short lists of them; anything longer is its hash. Fields that are None are
    left out. Names, versions and dtypes are not among them.
    """
    config: Any = getattr(model, "config", None)
    described = config.to_dict() if hasattr(config, "to_dict") else {}
    fields = dict(sorted(_flat("", described, 0)))
    if len(fields) <= _FIELDS_MAX:
        return fields
    rest = list(fields.items())[_FIELDS_MAX:]
    return {**dict(list(fields.items())[:_FIELDS_MAX]), "…": short_hash(rest)}


def moves_numbers(name: str) -> bool:
    """Return whether a forward may depend on a field of the config."""
    last = name.rpartition(".")[2]
    return not (
        last in _WITHOUT_EFFECT
        or last.endswith(_WITHOUT_EFFECT_ENDS)
        or last.startswith(_WITHOUT_EFFECT_STARTS)
    )


def plain_value(value: Any) -> Any:
    """Return a number, a text, a boolean or a short list of them as it is, anything else as text.

    Long values and values that JSON cannot hold become their hash or their text.
    """
    if isinstance(value, bool | int) and type(value) in (bool, int):
        return value if abs(value) < 2**63 else str(value)
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        text = str.__str__(value)
        return text if len(text) <= _TEXT_CHARS and text.isprintable() else short_hash(text)
    if isinstance(value, list | tuple):
        return _list(list(map(plain_value, value)))
    return short_hash(str(value)) if len(str(value)) > _TEXT_CHARS else str(value)


def short_hash(value: Any) -> str:
    """Return 64 bits of a sha256 over a JSON value, marked as a hash."""
    text = json.dumps(value, sort_keys=True, default=str)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _flat(path: str, fields: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, Any]]:
    for key, value in fields.items():
        name = str(key)
        if name in _NOT_RECORDED or value is None:
            continue
        dotted = f"{path}.{name}" if path else name
        if isinstance(value, Mapping) and depth < _DEPTH_MAX:
            yield from _flat(dotted, value, depth + 1)
        else:
            yield dotted, plain_value(value)


def _list(values: list[Any]) -> Any:
    """Return a short list as it is, a longer one as text that counts equal neighbours."""
    if len(values) > _PLAIN_LIST:
        runs = [(key, len(list(group))) for key, group in groupby(map(str, values))]
        text = ", ".join(key if count == 1 else f"{count} x {key}" for key, count in runs)
        return text if len(text) <= _LIST_CHARS else short_hash(values)
    return values if len(str(values)) <= _LIST_CHARS else short_hash(values)
