"""What must be equal for a run to be repeated, hashed or named."""

import hashlib
import json
import platform
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase


def weights_sha256(model: torch.nn.Module) -> str:
    """One sum over every tensor of the state dict: name, dtype, shape and bytes.

    Tied tensors count under each of their names. Reads the whole model once: about 0.4 s for
    540 MB on two cores.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_sha256(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor_bytes(tensor)).hexdigest()


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of everything that turns text into ids; of the vocabulary where the tokenizer is slow."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Truncation and padding are settings of a call, left in the tokenizer by the last one.
        described = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    else:
        described = {"vocab": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    return json_sha256(described)


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of the chat template; empty where the tokenizer has none."""
    template: Any = tokenizer.chat_template
    return "" if template is None else json_sha256(template)


def json_sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def environment() -> dict[str, str]:
    """Versions and hardware that change the last bits of a result."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda or "",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    }
