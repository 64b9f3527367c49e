"""Versions and hardware that a run depends on."""

import platform

import torch
import transformers


def environment() -> dict[str, str]:
    """Return the versions and hardware that can change the last bits of a result."""
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
