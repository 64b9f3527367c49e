"""Loading of models and tokenizers."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from tokentape.generation import fingerprints
from tokentape.generation.errors import ModelError
from tokentape.generation.fingerprints import FileState, ModelSource, file_states, folder_states
from tokentape.generation.hf.layer_cast import check_dtypes, compute_in, weights_dtype
from tokentape.generation.hf.packed_tensors import has_packed_weights
from tokentape.generation.models.adapters import (
    CONFIG_FILE,
    adapter_base,
    commit_of,
    is_folder,
    load_adapter,
)
from tokentape.generation.models.demo_model import DEMO_MODEL, demo_folder
from tokentape.generation.models.error_text import first_line
from tokentape.generation.models.identity import ModelIdentity, set_loading
from tokentape.generation.models.loading_settings import (
    LoadingKeywords,
    LoadingSettings,
    recorded_keywords,
)
from tokentape.generation.models.memory_check import (
    check_fits_memory,
    enough_memory,
    is_out_of_memory,
)
from tokentape.generation.models.model_files import (
    check_folder,
    check_gguf,
    gguf_of_folder,
    is_gguf,
)
from tokentape.generation.models.quantization import check_checkpoint, quantizer_versions
from tokentape.generation.models.quiet import local_files_alone, quiet_loading
from tokentape.generation.numerics.determinism import use_deterministic_kernels
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
    loading: Mapping[str, Any] = field(default_factory=dict)
    """The keywords of `load_model` that were not the default, as a run records them."""

    @cached_property
    def identity(self) -> ModelIdentity:
        """The fingerprints of the model and its tokenizer, and how it was loaded."""
        return ModelIdentity(self.model, self.tokenizer, self.loading)


def load_model(
    name: str | os.PathLike[str] = DEMO_MODEL,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    compute_dtype: str | None = None,
    revision: str | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    quantization: object = None,
    adapter: str | os.PathLike[str] | None = None,
    offline: bool = False,
    deterministic: bool = False,
) -> LoadedModel:
    """Load `smollm2-demo`, a folder, a GGUF file or a model of the Hugging Face hub.

    `dtype` is a name of torch, or `auto` for the checkpoint's own dtype. In the default float32,
    `verify` gives a definite verdict. With `compute_dtype`, a wider one than `dtype`, the weights
    stay in `dtype`, and each is cast as it is used: `dtype="bfloat16", compute_dtype="float32"`
    computes the logits of the bfloat16 weights in float32, in half of its memory, and the KV cache
    is in float32. The demo model is converted to safetensors in the user's cache folder on first
    use.

    `revision` is a branch, tag or commit of the hub; a run records the commit. `device_map` is that
    of `from_pretrained`. `quantization` is `int8`, `int4`, `int2` or `float8` (weights by quanto),
    a mapping with `quant_method`, or a quantization config of transformers. `adapter` is a PEFT
    adapter, a folder or a hub id with or without `@revision`; the tokenizer is that of `name`.
    `name` may also be an adapter; a tokenizer that it lacks is that of its base model. With
    `offline`, only files of this machine are read. `deterministic` lets torch use deterministic
    kernels, for all models of this process until its end; it warns of operations that have none.
    All of these are recorded with a run, and the command line replays it with them.
    Raise ModelError with a message of one line if the model is not found or cannot be loaded.

    Example:
        >>> import tokentape as tt
        >>> lm.model.save_pretrained(tmp_path)
        >>> files = lm.tokenizer.save_pretrained(tmp_path)
        >>> loaded = tt.load_model(tmp_path, dtype="bfloat16")
        >>> loaded.model.dtype
        torch.bfloat16
    """
    check_dtypes(dtype, compute_dtype or dtype)
    settings = LoadingSettings.checked(
        device=device,
        attn_implementation=attn_implementation,
        compute_dtype=compute_dtype,
        revision=revision,
        device_map=device_map,
        quantization=quantization,
        adapter=adapter,
        offline=offline,
        deterministic=deterministic,
    )
    return _load(os.fspath(name), dtype, settings)


def load_as_recorded(
    name: str, started: RunStarted, **overrides: Unpack[LoadingKeywords]
) -> LoadedModel:
    """Load a model as a run was recorded: in its dtype, revision, quantization, with its adapter.

    Dtypes that the replays do not know become float32. A revision belongs to the recorded name
    only. `overrides` are keywords of `load_model` that are used in place of the recorded ones.
    """
    recorded = dict(started.loading)
    dtype = recorded.pop("dtype", started.dtype)
    if dtype not in ("float32", "bfloat16", "float16"):
        dtype = "float32"
    if name != started.model:
        recorded.pop("revision", None)
    keywords: LoadingKeywords = {"dtype": dtype, **recorded_keywords(recorded)}
    keywords.update(overrides)
    return load_model(name, **keywords)


def load_tokenizer(name: str, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer that `load_model` loads, without the model and without a download.

    Raise ModelError if it is not on this machine.
    """
    try:
        with quiet_loading(), local_files_alone(True):
            return _tokenizer(_source(name, LoadingSettings(revision=revision, offline=True)))
    except ModelError:
        raise
    except Exception as error:  # each format has errors of its own
        raise ModelError(
            f"no tokenizer of {name!r} on this machine ({first_line(error)})"
        ) from error


def _load(name: str, dtype: str, settings: LoadingSettings) -> LoadedModel:
    source = _source(name, settings)
    files = _files_of(source)
    if settings.deterministic:
        use_deterministic_kernels()  # before the weights initialise CUDA
    with (
        quiet_loading(),
        local_files_alone(settings.offline),
        enough_memory(f"load the model {name!r}"),
    ):
        check_checkpoint(source)
        if settings.device_map is None and settings.quantization is None:
            check_fits_memory(source, dtype, settings.device, name)
        try:
            tokenizer = _tokenizer(source)
            model, settings = _model(source, dtype, settings)
        except ModelError:
            raise
        except Exception as error:  # each format has errors of its own
            if is_out_of_memory(error):
                raise
            raise ModelError(_why_not_loaded(name, source, error)) from error
    loading = settings.to_record()
    # If a file changed while it was loaded, the source of the tensors is unknown.
    if files and not settings.adapter and _files_of(source) == files:
        arguments = _settings(model, {**source, "dtype_argument": dtype, **loading})
        fingerprints.set_source(model, ModelSource(files=files, settings=arguments))
    if settings.compute_dtype is not None:
        # A run records the dtype that is computed in, which is not that of the weights.
        loading["dtype"] = str(weights_dtype(model)).removeprefix("torch.")
        compute_in(model, settings.compute_dtype)
    set_loading(model, loading)
    return LoadedModel(model, tokenizer, name, loading)


def _model(
    source: Mapping[str, Any], dtype: str, settings: LoadingSettings
) -> tuple[Any, LoadingSettings]:
    """Return the model on its device, and the settings with the commits that were found."""
    options: dict[str, Any] = {"attn_implementation": settings.attn_implementation}
    if settings.device_map is not None:
        options["device_map"] = settings.device_map
    if settings.quantization is not None:
        options["quantization_config"] = settings.quantization
    model: Any = AutoModelForCausalLM.from_pretrained(**source, **options, dtype=dtype)
    model = model.eval()
    if settings.device_map is None:
        model = model.to(settings.device)
    name = source["pretrained_model_name_or_path"]
    if not is_folder(Path(name)):
        commit = commit_of(name, settings.revision, "config.json")
        settings = replace(settings, revision=commit or settings.revision)
    if settings.adapter:
        adapter = load_adapter(model, settings.adapter, offline=settings.offline)
        settings = replace(settings, adapter=adapter)
    return model, settings


def _tokenizer(source: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, or of an adapter's base if the adapter has none."""
    name = source["pretrained_model_name_or_path"]
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**source)
    except Exception:  # each format has errors of its own
        base = _base_of(source)
        if base is None or base == name:
            raise
        offline = LoadingSettings(offline=bool(source.get("local_files_only")))
        return _tokenizer(_source(base, offline))
    return tokenizer


def local_source(name: str, *, revision: str | None = None) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a model on this machine.

    Raise ModelError if it is not found.
    """
    found = _source(name, LoadingSettings(revision=revision, offline=True))
    return found | {"local_files_only": True}


def _source(name: str, settings: LoadingSettings) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a name. Raise ModelError if it is not found."""
    source = _named_source(name)
    path = Path(source["pretrained_model_name_or_path"])
    if is_folder(path):
        if settings.revision is not None:
            raise ModelError(f"{name} is not a model of the hub: it has no revision")
        return source
    found: dict[str, Any] = {"revision": settings.revision} if settings.revision else {}
    if settings.offline:
        found["local_files_only"] = True
    return source | found


def _named_source(name: str) -> dict[str, str]:
    if name == DEMO_MODEL:
        return {"pretrained_model_name_or_path": str(demo_folder())}
    path = expand_path(name)
    folder = is_folder(path)
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


def _base_of(source: Mapping[str, Any]) -> str | None:
    """Return the name of the base model if the source is a PEFT adapter, else None.

    PEFT saves a tokenizer only where the caller does, and transformers finds the base of a model
    but not of a tokenizer.
    """
    options = {name: value for name, value in source.items() if name != "gguf_file"}
    path = options.pop("pretrained_model_name_or_path")
    try:
        config = cached_file(path, CONFIG_FILE, **options)
    except (OSError, ValueError):
        return None
    return None if config is None else adapter_base(Path(config))


def _why_not_loaded(name: str, source: Mapping[str, Any], error: Exception) -> str:
    """Return one line that names the model, or its GGUF file, and what the loader said."""
    if "gguf_file" in source:
        return (
            f"the GGUF file {name} cannot be loaded: it is cut off or damaged, or transformers "
            f"does not know its kind ({first_line(error)})"
        )
    if is_folder(Path(source["pretrained_model_name_or_path"])):
        return f"no model can be loaded from the folder {name!r} ({first_line(error)})"
    if isinstance(error, OSError | ValueError | ImportError):
        if source.get("local_files_only"):
            return f"no model {name!r} on this machine ({first_line(error)})"
        return (
            f"no model {name!r}: it is not {DEMO_MODEL!r}, a folder, a GGUF file or a model of "
            f"the hub that can be reached ({first_line(error)})"
        )
    return f"the model {name!r} cannot be loaded ({first_line(error)})"


def _files_of(source: Mapping[str, Any]) -> tuple[FileState, ...]:
    """Return the states of the files of a model; empty if they are not on this machine yet."""
    name = source["pretrained_model_name_or_path"]
    if "gguf_file" in source:
        return file_states([Path(name) / source["gguf_file"]])
    try:
        if Path(name).is_dir():
            return folder_states(Path(name))
        config = try_to_load_from_cache(name, "config.json", revision=source.get("revision"))
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
        **(quantizer_versions() if has_packed_weights(model) else {}),
    }
