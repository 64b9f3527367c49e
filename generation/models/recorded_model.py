"""Loading of the model that a recording names: from this machine only, and without its code.

A recording may come from a stranger. Unless the user asks for it, it neither downloads a model nor
makes transformers run code.
"""

from collections.abc import Mapping
from typing import Any, Unpack

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.layer_cast import check_dtypes
from tokentape.generation.models.loading import LoadedModel, load_with
from tokentape.generation.models.loading_settings import (
    LoadingKeywords,
    LoadingSettings,
    recorded_keywords,
)
from tokentape.generation.models.model_config import is_hub_kernel
from tokentape.generation.models.model_names import check_recorded_name
from tokentape.generation.models.model_places import place_of_adapter, place_of_model
from tokentape.recorder.events import RunStarted

_DTYPES = ("float32", "bfloat16", "float16")
_CALIBRATION = ("dataset", "tokenizer")
"""Fields of a quantization config for which transformers reads data of another repository."""


def load_as_recorded(
    name: str | None, started: RunStarted, **overrides: Unpack[LoadingKeywords]
) -> LoadedModel:
    """Load a model as a run was recorded: in its dtype, revision, quantization, with its adapter.

    `name` is that of the user; None for the recorded one. A recorded name without folders is looked
    up among the places that runs of this machine wrote down. What only the recording names is read
    from this machine: the model and the adapter are not downloaded, and a kernel of the hub or the
    code of the model's repository needs an override. Dtypes that the replays do not know become
    float32. A revision belongs to the recorded name only. `overrides` are keywords of `load_model`
    that are used in place of the recorded ones. Raise ModelError as `load_model` does, and for a
    recording that needs an override.
    """
    recorded = {field: each for field, each in started.loading.items() if field not in overrides}
    dtype = recorded.pop("dtype", started.dtype)
    if dtype not in _DTYPES:
        dtype = "float32"
    _check_asks_for_nothing(recorded)
    if name is None:
        if not started.model:
            raise ModelError("the recording does not name its model")
        check_recorded_name(started.model)
        overrides = {"offline": True, **overrides}
    elif name not in (started.model, place_of_model(started)):
        recorded.pop("revision", None)
    if name in (None, started.model):
        name = place_of_model(started)
    if isinstance(recorded.get("adapter"), str):
        recorded["adapter"] = place_of_adapter(started)
    keywords: dict[str, Any] = {"dtype": dtype, **recorded_keywords(recorded), **overrides}
    dtype = keywords.pop("dtype")
    check_dtypes(dtype, keywords.get("compute_dtype") or dtype)
    settings = LoadingSettings.checked(**keywords, offline_adapter="adapter" in recorded)
    return load_with(name, dtype, settings)


def _check_asks_for_nothing(recorded: Mapping[str, Any]) -> None:
    """Raise ModelError if a recorded setting would run code or read data of another repository."""
    kernel = recorded.get("attn_implementation", "")
    if is_hub_kernel(str(kernel)):
        raise ModelError(
            f"the recording names the attention kernel {kernel!r}, which is code of the hub: name "
            "one yourself with --attn-implementation (attn_implementation=)"
        )
    if recorded.get("trust_remote_code"):
        raise ModelError(
            "the recorded model ran the Python code of its repository, which is not run without "
            "--trust-remote-code (trust_remote_code=True)"
        )
    quantization = recorded.get("quantization")
    if isinstance(quantization, Mapping) and any(quantization.get(each) for each in _CALIBRATION):
        raise ModelError(
            "the recorded quantization reads data of another repository: name one yourself with "
            "--quantization (quantization=)"
        )
    check_recorded_name(str(recorded.get("adapter", "")))
