"""How a model is loaded, in addition to its name and dtype: checked, and recorded with a run."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

import torch

from tokentape.generation.checks import check_switch
from tokentape.generation.errors import ModelError
from tokentape.generation.models.model_names import check_adapter
from tokentape.generation.models.quantization import quantization_config

_NOT_RECORDED = ("offline", "offline_adapter")
# The types of recorded settings; a setting that is not listed is a string.
_RECORDED_TYPES: dict[str, tuple[type, ...]] = {
    "device_map": (str, Mapping),
    "quantization": (Mapping,),
    "deterministic": (bool,),
    "trust_remote_code": (bool,),
}


Dtype = Literal["float32", "bfloat16", "float16", "auto"] | str
Quantization = Literal["int8", "int4", "int2", "float8"] | Mapping[str, Any] | object


class LoadingKeywords(TypedDict, total=False):
    """The keywords of `load_model` that its commands and `ModelManager` pass on."""

    dtype: Dtype
    device: str
    attn_implementation: str
    compute_dtype: str | None
    revision: str | None
    device_map: "str | Mapping[str, int | str] | None"
    quantization: Quantization
    adapter: "str | os.PathLike[str] | None"
    offline: bool
    deterministic: bool
    trust_remote_code: bool


LOADING_DEFAULTS: dict[str, object] = {
    **dict.fromkeys(LoadingKeywords.__annotations__),
    "dtype": "float32",
    "device": "cpu",
    "attn_implementation": "sdpa",
    "offline": False,
    "deterministic": False,
    "trust_remote_code": False,
}
"""The default of each keyword."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingSettings:
    """The keywords of `load_model`, checked; the defaults are recorded as nothing."""

    device: str = "cpu"
    attn_implementation: str = "sdpa"
    compute_dtype: str | None = None
    """The dtype that 16-bit weights are computed in; None for their own."""
    revision: str | None = None
    """A branch, tag or commit of the hub."""
    device_map: Any = None
    """As `from_pretrained` takes it: a device, `auto`, or a device for each module."""
    quantization: Any = None
    """A quantization config of transformers."""
    adapter: str | None = None
    """A PEFT adapter on top of the model: a folder, or a hub id with or without `@revision`."""
    offline: bool = False
    """Whether only files of this machine are read."""
    offline_adapter: bool = False
    """Whether an adapter is read only from files of this machine."""
    deterministic: bool = False
    """Whether torch uses deterministic kernels; see `use_deterministic_kernels`."""
    trust_remote_code: bool = False
    """Whether the Python code of the model's repository is run."""

    @classmethod
    def checked(
        cls,
        *,
        compute_dtype: str | None = None,
        revision: str | None = None,
        device_map: Any = None,
        quantization: object = None,
        adapter: Any = None,
        deterministic: bool = False,
        trust_remote_code: bool = False,
        **keywords: Any,
    ) -> "LoadingSettings":
        """Return the settings; an empty text is the default.

        Raise ModelError for a setting that cannot be met here.
        """
        settings = cls(
            compute_dtype=compute_dtype or None,
            revision=revision or None,
            device_map=device_map or None,
            quantization=quantization_config(quantization),
            adapter=check_adapter(os.fspath(adapter)) if adapter else None,
            deterministic=check_switch("deterministic", deterministic),
            trust_remote_code=check_switch("trust_remote_code", trust_remote_code),
            **keywords,
        )
        if settings.device_map is not None and settings.device != "cpu":
            raise ModelError(
                f"give device={settings.device!r} or device_map={settings.device_map!r}, not both"
            )
        if settings.compute_dtype is not None and settings.quantization is not None:
            raise ModelError("give compute_dtype or quantization, not both")
        return settings

    def to_record(self) -> dict[str, Any]:
        """Return the settings that are not the default, as JSON. `from_record` reads them.

        Raise ModelError for a quantization config that JSON cannot represent.
        """
        chosen = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _NOT_RECORDED and getattr(self, field.name) != field.default
        }
        if self.quantization is not None:
            chosen["quantization"] = self.quantization.to_dict()
        try:
            recorded: dict[str, Any] = json.loads(json.dumps(chosen))
        except (TypeError, ValueError) as error:
            raise ModelError(f"how the model is loaded cannot be recorded: {error}") from None
        return recorded


def recorded_keywords(recorded: Mapping[str, Any]) -> LoadingKeywords:
    """Return the keywords of `load_model` for a recorded run, with a device that is present.

    Raise ModelError for a setting that this version does not know.
    """
    known = {field.name for field in fields(LoadingSettings)} - set(_NOT_RECORDED)
    unknown = sorted(set(recorded) - known)
    if unknown:
        raise ModelError(f"the model was loaded with {unknown[0]!r}, which is not known here")
    for name, value in recorded.items():
        if not isinstance(value, _RECORDED_TYPES.get(name, str)):
            raise ModelError(f"the recorded {name} of the model cannot be used: {value!r}")
    keywords: LoadingKeywords = {**recorded}  # type: ignore[typeddict-item]
    if not _is_present(keywords.get("device", "cpu")):
        del keywords["device"]
    return keywords


def _is_present(device: str) -> bool:
    """Return whether the device exists here; CUDA is not initialised."""
    try:
        found = torch.device(device)
        if found.type == "cuda":
            return (found.index or 0) < torch.cuda.device_count()
        torch.empty(0, device=found)
    except (AssertionError, RuntimeError, NotImplementedError):
        return False
    return True
