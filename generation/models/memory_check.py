"""Whether a model, or a forward of it, fits into the memory that there is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tokentape.generation.errors import ModelError

# What a process in a container may take, and has taken (kernel documentation, cgroup v2).
_CGROUP = Path("/sys/fs/cgroup")


def check_fits_memory(source: Mapping[str, str], dtype: str, device: str, name: str) -> None:
    """Raise ModelError where a model's tensors alone exceed the free memory of the device.

    The model is made of its config without memory (torch's meta device) and counted. One whose
    config cannot be had is left to `from_pretrained` to refuse.
    """
    try:
        config = AutoConfig.from_pretrained(**source)
        chosen = config.dtype if dtype == "auto" else getattr(torch, dtype)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, ImportError, AttributeError, KeyError, TypeError, RuntimeError):
        return
    item_bytes = (chosen or torch.float32).itemsize
    needed = sum(parameter.numel() for parameter in model.parameters()) * item_bytes
    free = free_bytes(torch.device(device))
    if needed > free:
        raise ModelError(
            f"the model {name!r} is too large for the memory here: its weights take "
            f"{needed / 1e9:.1f} GB in {dtype}, and {free / 1e9:.1f} GB are free on {device}"
        )


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken: of the GPU, or of the machine and of its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        taken = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, max(0, limit - taken))


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn running out of memory into a ModelError, in one line."""
    try:
        yield
    except MemoryError:
        raise ModelError(f"there is not enough memory to {what}") from None
    except RuntimeError as error:
        # torch has a class for it on CUDA; on the CPU only the allocator's words tell.
        told = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not told:
            raise
        raise ModelError(f"there is not enough memory to {what}") from None
