"""Loading of models and tokenizers."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
from tokentape.generation.hf.layer_cast import check_dtypes, compute_in, weights_dtype
from tokentape.generation.hf.packed_tensors import has_packed_weights
from tokentape.generation.hf.quiet_configs import quiet_configs
from tokentape.generation.models.adapters import (
    base_of,
    commit_of,
    load_adapter,
)
from tokentape.generation.models.demo_model import demo_folder
from tokentape.generation.models.error_text import first_line
from tokentape.generation.models.identity import ModelIdentity, set_loading
from tokentape.generation.models.loading_settings import Dtype, LoadingSettings, Quantization
from tokentape.generation.models.memory_check import (
    check_fits_memory,
    enough_memory,
    is_out_of_memory,
)
from tokentape.generation.models.model_config import check_attention, read_config
from tokentape.generation.models.model_files import check_stays_inside
from tokentape.generation.models.model_names import (
    DEMO_MODEL,
    check_hub_adapter,
    check_hub_name,
    is_folder,
    local_model,
)
from tokentape.generation.models.quantization import check_checkpoint, quantizer_versions
from tokentape.generation.models.quiet import local_files_alone, quiet_loading
from tokentape.generation.numerics.determinism import use_deterministic_kernels
from tokentape.recorder.listed_keywords import suggests_keywords
from tokentape.recorder.paths import expand_path
from tokentape.recorder.short_forms import html_facts, short_repr


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        facts = ", ".join(value for _, value in self._facts() if value)
        return short_repr(self, f"{self.name!r}:", facts)

    def _repr_html_(self) -> str:
        loading = [(name, value) for name, value in self.loading.items()]
        return html_facts(f"Model {self.name}", [*self._facts(), *loading])

    def _facts(self) -> list[tuple[str, str]]:
        model = self.model
        parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
        return [
            ("class", type(model).__name__),
            ("parameters", f"{sum(each.numel() for each in parameters):,} parameters"),
            ("dtype", str(getattr(model, "dtype", "")).removeprefix("torch.")),
            ("device", str(getattr(model, "device", ""))),
        ]

    @cached_property
    def identity(self) -> ModelIdentity:
        """The fingerprints of the model and its tokenizer, and how it was loaded."""
        return ModelIdentity(self.model, self.tokenizer, self.loading)


@suggests_keywords
def load_model(
    name: str | os.PathLike[str] = DEMO_MODEL,
    *,
    dtype: Dtype = "float32",
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    compute_dtype: str | None = None,
    revision: str | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    quantization: Quantization = None,
    adapter: str | os.PathLike[str] | None = None,
    offline: bool = False,
    deterministic: bool = False,
    trust_remote_code: bool = False,
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
    The files of a model choose neither its attention kernel nor code to run: `trust_remote_code`
    runs the Python code of its repository, and an `attn_implementation` named `owner/name` that of
    a kernel of the hub.
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
        trust_remote_code=trust_remote_code,
    )
    return load_with(os.fspath(name), dtype, settings)


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


def load_with(name: str, dtype: str, settings: LoadingSettings) -> LoadedModel:
    """Load a model in a dtype with checked settings; see `load_model`."""
    settings = _without_unreachable_hub(name, settings)
    source = _source(name, settings)
    files = _files_of(source)
    if settings.deterministic:
        use_deterministic_kernels()  # before the weights initialise CUDA
    with (
        quiet_loading(),
        quiet_configs(),
        local_files_alone(settings.offline),
        enough_memory(f"load the model {name!r}"),
    ):
        try:
            config = read_config(source, settings.attn_implementation)
            check_checkpoint(config)
            if settings.device_map is None and settings.quantization is None:
                check_fits_memory(config, dtype, settings.device, name)
            tokenizer = _tokenizer(source)
            model, settings = _model(source, config, dtype, settings)
            folder = _folder_of(source)
            if folder is not None:
                check_stays_inside(folder)  # again: a model of the hub may be new here
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


def _without_unreachable_hub(name: str, settings: LoadingSettings) -> LoadingSettings:
    """Return the settings, with `offline` if the hub cannot be reached and is not needed.

    Otherwise its libraries would try again for minutes. Raise ModelError if it is needed.
    """
    offline = settings.offline
    if name != DEMO_MODEL and local_model(name) is None:
        offline = check_hub_name(name, settings.revision, offline=offline)
    if settings.adapter:
        adapter_offline = offline or settings.offline_adapter
        adapter_offline = check_hub_adapter(settings.adapter, offline=adapter_offline)
        settings = replace(settings, offline_adapter=adapter_offline)
    return replace(settings, offline=offline)


def _model(
    source: Mapping[str, Any], config: Any, dtype: str, settings: LoadingSettings
) -> tuple[Any, LoadingSettings]:
    """Return the model on its device, and the settings with the commits that were found."""
    options: dict[str, Any] = {"attn_implementation": settings.attn_implementation}
    if settings.device_map is not None:
        options["device_map"] = settings.device_map
    if settings.quantization is not None:
        options["quantization_config"] = settings.quantization
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **source, **options, config=config, dtype=dtype, output_loading_info=True
    )
    model, info = loaded
    missing = sorted(map(str, info["missing_keys"]))
    if missing and settings.quantization is None:
        raise ModelError(
            f"the files of the model lack {len(missing)} of its tensors, such as {missing[0]}: "
            "transformers fills them with random numbers"
        )
    model = model.eval()
    check_attention(model, settings.attn_implementation)
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError("the config says encoder and decoder: only decoders can be recorded")
    if settings.device_map is None:
        model = model.to(settings.device)
    name = source["pretrained_model_name_or_path"]
    if not is_folder(Path(name)):
        commit = commit_of(name, settings.revision, "config.json")
        settings = replace(settings, revision=commit or settings.revision)
    if settings.adapter:
        offline = settings.offline or settings.offline_adapter
        adapter = load_adapter(model, settings.adapter, offline=offline)
        settings = replace(settings, adapter=adapter)
    return model, settings


def _tokenizer(source: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, or of an adapter's base if the adapter has none."""
    name = source["pretrained_model_name_or_path"]
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**source)
    except Exception:  # each format has errors of its own
        base = base_of(source)
        if base is None or base == name:
            raise
        settings = LoadingSettings(
            offline=bool(source.get("local_files_only")),
            trust_remote_code=source["trust_remote_code"],
        )
        return _tokenizer(_source(base, settings))
    return tokenizer


def local_source(name: str, *, revision: str | None = None) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a model on this machine.

    Raise ModelError if it is not found.
    """
    found = _source(name, LoadingSettings(revision=revision, offline=True))
    return found | {"local_files_only": True}


def _source(name: str, settings: LoadingSettings) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` for a name. Raise ModelError if it is not found."""
    # Without a value, transformers asks on standard input whether to run the code of a model.
    source = _named_source(name) | {"trust_remote_code": settings.trust_remote_code}
    path = Path(source["pretrained_model_name_or_path"])
    if is_folder(path):
        if settings.revision is not None:
            raise ModelError(f"{name} is not a model of the hub: it has no revision")
        return source
    found: dict[str, Any] = {"revision": settings.revision} if settings.revision else {}
    if settings.offline:
        found["local_files_only"] = True
    return source | found


def _named_source(name: str) -> dict[str, Any]:
    if name == DEMO_MODEL:
        return {"pretrained_model_name_or_path": str(demo_folder())}
    found = local_model(name)
    if found is None:
        return {"pretrained_model_name_or_path": str(expand_path(name))}
    folder, gguf = found
    return {"pretrained_model_name_or_path": str(folder)} | ({"gguf_file": gguf} if gguf else {})


def _why_not_loaded(name: str, source: Mapping[str, Any], error: Exception) -> str:
    """Return one line that names the model, or its GGUF file, and what the loader said."""
    if "trust_remote_code" in str(error):
        return (
            f"the model {name!r} has Python code of its own, which is not run without "
            "--trust-remote-code (trust_remote_code=True)"
        )
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
    if "gguf_file" in source:
        name = source["pretrained_model_name_or_path"]
        return file_states([Path(name) / source["gguf_file"]])
    folder = _folder_of(source)
    return () if folder is None else folder_states(folder)


def _folder_of(source: Mapping[str, Any]) -> Path | None:
    """Return the folder of a model's files; None for a GGUF file, or if it is not here yet."""
    name = source["pretrained_model_name_or_path"]
    if "gguf_file" in source:
        return None
    try:
        if Path(name).is_dir():
            return Path(name)
        config = try_to_load_from_cache(name, "config.json", revision=source.get("revision"))
    # Neither a valid file name nor a name of the hub: `from_pretrained` reports it.
    except (OSError, ValueError):
        return None
    return Path(config).parent if isinstance(config, str) else None


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
