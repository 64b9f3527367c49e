"""Checks whether a model and its forwards fit into the available memory."""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.attention_kernel import choose_implementations

# The memory limit and usage of a container (kernel documentation, cgroup v2).
_CGROUP = Path("/sys/fs/cgroup")


def check_fits_memory(config: Any, dtype: str, device: str, name: str) -> None:
    """Raise ModelError if the parameters of a model exceed the free memory of the device.

    The parameters are counted on torch's meta device, which needs no memory. If its weights are
    quantized, or if transformers has no code for the model, do nothing.
    """
    if getattr(config, "quantization_config", None):
        return
    config = copy.deepcopy(config)  # changed here, and by `from_config`
    choose_implementations(config, "eager")  # another kernel may have to be fetched
    chosen = config.dtype if dtype == "auto" else getattr(torch, str(dtype).removeprefix("torch."))
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=False
            )
    except Exception:  # each format has errors of its own, and `from_pretrained` has them again
        return
    item_bytes = (chosen or torch.float32).itemsize
    needed = sum(parameter.numel() for parameter in model.parameters()) * item_bytes
    free = free_bytes(torch.device(device))
    if needed > free:
        raise ModelError(
            f"the model {name!r} is too large for the memory: its weights need "
            f"{needed / 1e9:.1f} GB in {dtype}, and {free / 1e9:.1f} GB are free on {device}"
        )


def free_bytes(device: torch.device) -> int:
    """Return the free memory in bytes, of the GPU or of the machine and its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # not a container, or one without a limit
        return free
    return min(free, max(0, limit - used + _unused_file_bytes()))


def usable_bytes(device: torch.device) -> int:
    """Return the memory that tensors on the device can take now.

    On a GPU it is the free memory, and what torch's allocator holds without using it.
    """
    free = free_bytes(device)
    if device.type == "cuda":
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free


def _unused_file_bytes() -> int:
    """Return the bytes of files that the container's usage counts and the kernel would free."""
    try:
        found = re.search(
            r"^inactive_file (\d+)$", (_CGROUP / "memory.stat").read_text(), re.MULTILINE
        )
    except OSError:
        return 0
    return int(found[1]) if found else 0


@contextmanager
def enough_memory(action: str) -> Iterator[None]:
    """Within this context, raise ModelError with one line if memory runs out during `action`."""
    try:
        yield
    except MemoryError:
        raise ModelError(f"there is not enough memory to {action}") from None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(f"there is not enough memory to {action}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on the machine or on a GPU.

    torch has an error class for CUDA. On the CPU, only the message identifies the error.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
