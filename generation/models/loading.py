"""Loading of models and tokenizers."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from tokentape.generation import fingerprints
from tokentape.generation.errors import ModelError
from tokentape.generation.fingerprints import FileState, ModelSource, file_states, folder_states
from tokentape.generation.hf.compute_dtype import check_compute_dtype, compute_in
from tokentape.generation.models.demo_model import DEMO_MODEL, demo_folder
from tokentape.generation.models.identity import ModelIdentity
from tokentape.generation.models.memory_check import (
    check_fits_memory,
    enough_memory,
    is_out_of_memory,
)
from tokentape.generation.models.model_files import (
    adapter_base,
    check_folder,
    check_gguf,
    gguf_of_folder,
    is_gguf,
)
from tokentape.generation.models.quiet import quiet_loading
from tokentape.recorder.events import RunStarted
from tokentape.recorder.paths import expand_path


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and the name under which `load_model` found them.

    Example:
        >>> import tokentape as tt
        >>> named = tt.LoadedModel(lm.model, lm.tokenizer, "my-model")
        >>> named.name, len(named.identity.weights_sha256)
        ('my-model', 64)
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    name: str

    @cached_property
    def identity(self) -> ModelIdentity:
        """The fingerprints of the model and its tokenizer."""
        return ModelIdentity(self.model, self.tokenizer)


def load_model(
    name: str | os.PathLike[str] = DEMO_MODEL,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    compute_dtype: str | None = None,
) -> LoadedModel:
    """Load `smollm2-demo`, a folder, a GGUF file or a model of the Hugging Face hub.

    The folder may be that of a PEFT adapter; a tokenizer that it lacks is that of its base model.
    `dtype` is a name of torch, or `auto` for the checkpoint's own dtype. In the default float32,
    `verify` gives a definite verdict. With `compute_dtype`, a wider one than `dtype`, the weights
    stay in `dtype`, and each is cast as it is used: `dtype="bfloat16", compute_dtype="float32"`
    computes the logits of the bfloat16 weights in float32, in half of its memory, and the KV cache
    is in float32. The demo model is converted to safetensors in the user's
    cache folder on first use.
    Raise ModelError with a message of one line if the model is not found or cannot be loaded.

    Example:
        >>> import tokentape as tt
        >>> lm.model.save_pretrained(tmp_path)
        >>> files = lm.tokenizer.save_pretrained(tmp_path)
        >>> loaded = tt.load_model(tmp_path, dtype="bfloat16")
        >>> loaded.model.dtype
        torch.bfloat16
    """
    if compute_dtype is not None:
        check_compute_dtype(compute_dtype, dtype)
    text = os.fspath(name)
    source = _source(text)
    files = _files_of(source)
    with quiet_loading(), enough_memory(f"load the model {text!r}"):
        check_fits_memory(source, dtype, device, text)
        try:
            tokenizer = AutoTokenizer.from_pretrained(**_tokenizer_source(source))
            model: Any = AutoModelForCausalLM.from_pretrained(
                **source, dtype=dtype, attn_implementation=attn_implementation
            )
        except Exception as error:  # each format has errors of its own
            if is_out_of_memory(error):
                raise
            raise ModelError(_why_not_loaded(text, source, error)) from error
    model = model.eval().to(device)
    # If a file changed while it was loaded, the source of the tensors is unknown.
    if files and _files_of(source) == files:
        arguments = {**source, "dtype_argument": dtype, "attn_implementation": attn_implementation}
        settings = _settings(model, arguments)
        fingerprints.set_source(model, ModelSource(files=files, settings=settings))
    if compute_dtype is not None:
        compute_in(model, compute_dtype)
    return LoadedModel(model, tokenizer, text)


def load_as_recorded(name: str, started: RunStarted) -> LoadedModel:
    """Load a model in the dtype that a run was recorded in, or in float32 for other dtypes."""
    known = started.dtype in ("float32", "bfloat16", "float16")
    return load_model(name, dtype=started.dtype if known else "float32")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer that `load_model` loads, without the model and without a download.

    Raise ModelError if it is not on this machine.
    """
    try:
        with quiet_loading():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                **_tokenizer_source(_source(name)), local_files_only=True
            )
    except ModelError:
        raise
    except Exception as error:  # each format has errors of its own
        raise ModelError(
            f"no tokenizer of {name!r} on this machine ({_first_line(error)})"
        ) from error
    return tokenizer


def _source(name: str) -> dict[str, str]:
    """Return the arguments of `from_pretrained` for a name. Raise ModelError if it is not found."""
    if name == DEMO_MODEL:
        return {"pretrained_model_name_or_path": str(demo_folder())}
    path = expand_path(name)
    folder = _is_folder(path)
    if folder:
        gguf = gguf_of_folder(path)
        check_folder(path)
    else:
        gguf = path if is_gguf(name) else None
    if gguf is not None:
        check_gguf(gguf)
        return {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    if name.startswith((".", "/", "~")) and not folder:
        raise ModelError(f"there is no model folder {name}")
    return {"pretrained_model_name_or_path": str(path)}


def _tokenizer_source(source: dict[str, str]) -> dict[str, str]:
    """Return the arguments of `from_pretrained` for the tokenizer of a model."""
    path = Path(source["pretrained_model_name_or_path"])
    base = adapter_base(path) if _is_folder(path) else None
    return source if base is None else _source(base)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or with a NUL
        return False


def _why_not_loaded(name: str, source: Mapping[str, str], error: Exception) -> str:
    """Return one line that names the model, or its GGUF file, and what the loader said."""
    if "gguf_file" in source:
        return (
            f"the GGUF file {name} cannot be loaded: it is cut off or damaged, or transformers "
            f"does not know its kind ({_first_line(error)})"
        )
    if _is_folder(Path(source["pretrained_model_name_or_path"])):
        return f"no model can be loaded from the folder {name!r} ({_first_line(error)})"
    if isinstance(error, OSError | ValueError | ImportError):
        return (
            f"no model {name!r}: it is not {DEMO_MODEL!r}, a folder, a GGUF file or a model of "
            f"the hub that can be reached ({_first_line(error)})"
        )
    return f"the model {name!r} cannot be loaded ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    known = isinstance(error, ModelError | OSError | ValueError | ImportError)
    return text if known and text else f"{type(error).__name__}: {text}"


def _files_of(source: Mapping[str, str]) -> tuple[FileState, ...]:
    """Return the states of the files of a model; empty if they are not on this machine yet."""
    name = source["pretrained_model_name_or_path"]
    if "gguf_file" in source:
        return file_states([Path(name) / source["gguf_file"]])
    try:
        if Path(name).is_dir():
            return folder_states(Path(name))
        config = try_to_load_from_cache(name, "config.json")
    # Neither a valid file name nor a name of the hub: `from_pretrained` reports it.
    except (OSError, ValueError):
        return ()
    return folder_states(Path(config).parent) if isinstance(config, str) else ()


def _settings(model: Any, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return all that determines the loaded tensors in addition to the files."""
    return {
        **{name: str(value) for name, value in arguments.items()},
        "dtype": str(model.dtype),
        "device": str(model.device),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gguf": version("gguf"),
    }
