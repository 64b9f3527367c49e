"""PEFT adapters on top of a loaded model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.utils.hub import cached_file

from tokentape.generation.errors import ModelError
from tokentape.generation.models.error_text import first_line
from tokentape.generation.models.memory_check import is_out_of_memory
from tokentape.generation.models.model_names import ADAPTER_CONFIG, is_folder
from tokentape.recorder.paths import expand_path


def load_adapter(model: Any, adapter: str, *, offline: bool) -> str:
    """Load an adapter into a model and activate it. Return its name, with its commit if known.

    Raise ModelError if it cannot be loaded, or if its tensors are not those of its modules.
    """
    folder = expand_path(adapter)
    in_folder = is_folder(folder)
    name, _, revision = (str(folder), "", "") if in_folder else adapter.partition("@")
    # transformers 5.23 refuses `local_files_only` as an argument of its own.
    options: dict[str, Any] = {"local_files_only": True} if offline or in_folder else {}
    if revision:
        options["revision"] = revision
    base_of({"pretrained_model_name_or_path": name, **options})
    try:
        loaded = model.load_adapter(name, adapter_kwargs=options)
    except Exception as error:  # peft, transformers and safetensors have errors of their own
        if is_out_of_memory(error):
            raise
        raise ModelError(f"the adapter {adapter} cannot be loaded ({first_line(error)})") from error
    for fault in ("missing", "unexpected", "mismatched"):
        tensors = sorted(map(str, getattr(loaded, f"{fault}_keys", None) or ()))
        if tensors:
            raise ModelError(
                f"the adapter {adapter} does not fit the model: {len(tensors)} {fault} tensors, "
                f"such as {tensors[0]}"
            )
    if in_folder:
        return adapter
    commit = commit_of(name, revision or None, ADAPTER_CONFIG) or revision
    return f"{name}@{commit}" if commit else name


def base_of(source: Mapping[str, Any]) -> str | None:
    """Return the name of the base model if the source is a PEFT adapter, else None.

    `source` has the arguments of `from_pretrained`. PEFT saves a tokenizer only where the caller
    does, and transformers finds the base of a model but not of a tokenizer. Raise ModelError if the
    config of the adapter names a Python module, which PEFT would import.
    """
    options = {
        name: value
        for name, value in source.items()
        if name not in ("gguf_file", "trust_remote_code")
    }
    path = options.pop("pretrained_model_name_or_path")
    try:
        config = cached_file(path, ADAPTER_CONFIG, **options)
        described = {} if config is None else json.loads(Path(config).read_bytes())
    except (OSError, ValueError, RecursionError):  # `from_pretrained` reports it
        return None
    if not isinstance(described, dict):
        return None
    if described.get("megatron_config"):
        raise ModelError(
            f"the adapter {path} names a module to import, megatron_core: that is not supported"
        )
    base = described.get("base_model_name_or_path")
    return base if isinstance(base, str) else None


def commit_of(name: str, revision: str | None, file: str) -> str | None:
    """Return the commit of a file of the hub in this machine's cache; None if it is not there."""
    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except (OSError, ValueError):  # not a name of the hub
        return None
    return Path(found).parent.name if isinstance(found, str) else None
