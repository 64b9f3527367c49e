"""The attention kernels of a turn: those that give the same bits each time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_uses = 0
_was_enabled = False


def cuda_device(model: Any) -> torch.device | None:
    """Return the CUDA device of a model, the first of several; None if none of it is on one."""
    device = getattr(model, "device", None)
    if isinstance(device, torch.device) and device.type == "cuda":
        return device
    for each in (getattr(model, "hf_device_map", None) or {}).values():
        if isinstance(each, int) and torch.cuda.is_available():
            return torch.device("cuda", each)
        if str(each).startswith("cuda"):
            return torch.device(each)
    return None


@contextmanager
def repeatable_attention(device: torch.device | None) -> Iterator[None]:
    """Within this context, compute attention without cuDNN if the device is one of CUDA.

    In 16 bits cuDNN's attention gives other bits each time (torch 2.11, cuDNN 9.19, measured on
    H100 and H200). It stays on where it is the only backend that the caller left on. Uses in
    several threads may overlap: the flag is set by the first and restored after the last.
    """
    if device is None or device.type != "cuda":
        yield
        return
    _begin()
    try:
        yield
    finally:
        _end()


def _begin() -> None:
    global _uses, _was_enabled
    with _lock:
        if not _uses:
            cuda: Any = torch.backends.cuda
            others = (
                cuda.flash_sdp_enabled(),
                cuda.mem_efficient_sdp_enabled(),
                cuda.math_sdp_enabled(),
            )
            _was_enabled = cuda.cudnn_sdp_enabled() and any(others)
            if _was_enabled:
                cuda.enable_cudnn_sdp(False)
        _uses += 1


def _end() -> None:
    global _uses
    with _lock:
        _uses -= 1
        if not _uses and _was_enabled:
            torch.backends.cuda.enable_cudnn_sdp(True)
