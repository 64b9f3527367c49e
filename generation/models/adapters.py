"""PEFT adapters on top of a loaded model."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from tokentape.generation.errors import ModelError
from tokentape.generation.models.error_text import first_line
from tokentape.generation.models.memory_check import is_out_of_memory
from tokentape.generation.models.model_files import check_folder
from tokentape.recorder.paths import expand_path

CONFIG_FILE = "adapter_config.json"


def check_adapter(adapter: str) -> str:
    """Return the adapter. Raise ModelError if it cannot be one, or if peft is not installed."""
    if find_spec("peft") is None:
        raise ModelError(
            "an adapter needs the package peft, which is not installed: "
            'pip install "tokentape[adapters]"'
        )
    folder = expand_path(adapter)
    if is_folder(folder):
        check_folder(folder)
        if not (folder / CONFIG_FILE).is_file():
            raise ModelError(f"{adapter} is not a PEFT adapter: it has no {CONFIG_FILE}")
    elif adapter.startswith((".", "/", "~")):
        raise ModelError(f"there is no adapter folder {adapter}")
    return adapter


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
    commit = commit_of(name, revision or None, CONFIG_FILE) or revision
    return f"{name}@{commit}" if commit else name


def adapter_base(config: Path) -> str | None:
    """Return the name of the base model in the config of an adapter; None if it has none."""
    try:
        base = json.loads(config.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):  # `from_pretrained` reports a damaged file
        return None
    return base if isinstance(base, str) else None


def commit_of(name: str, revision: str | None, file: str) -> str | None:
    """Return the commit of a file of the hub in this machine's cache; None if it is not there."""
    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except (OSError, ValueError):  # not a name of the hub
        return None
    return Path(found).parent.name if isinstance(found, str) else None


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; also one that no file system can hold."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or with a NUL
        return False
