"""All that the last bits of a result depend on, other than the model and its inputs."""

import os
import platform
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from tokentape.generation.fingerprints.hardware import cpu_libraries, gpu, processor
from tokentape.generation.numerics.attention import repeatable_attention
from tokentape.generation.numerics.flags import FLAGS, read_flags

_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)
"""Environment variables by which a user chooses kernels; recorded if they are set."""
_VARIABLE_CHARS = 200
_OF_THE_GPU = (
    "gpu",
    "gpu_multiprocessors",
    "gpu_capability",
    "driver",
    "cublas",
    "cudnn",
    "hip",
    *(flag.name for flag in FLAGS if flag.cuda),
)
_KEYS = (
    "python",
    "torch",
    "transformers",
    "platform",
    "machine",
    "cpu",
    "cpu_features",
    "cpu_capability",
    "blas",
    "mkl",
    "onednn",
    "cuda",
    *_OF_THE_GPU,
    *(flag.name for flag in FLAGS if not flag.cuda),
    *_VARIABLES,
)
"""All keys that are compared; a recording may come from a stranger and have any."""
_SINCE_0_2 = "cpu"
"""A key that no recording of 0.1.0 has; those recorded eight of the keys."""


def environment(device: torch.device | None = None) -> dict[str, str]:
    """Return the versions, the hardware and the flags of torch with which a turn is computed.

    `device` is the CUDA device of the model. Without one, the keys of a GPU and its flags are left
    out, and CUDA is not initialised.
    """
    with repeatable_attention(device):
        flags = read_flags(cuda=device is not None)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        **processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **cpu_libraries(),
        "cuda": torch.version.cuda or "",
        "gpu": "",
        **({} if device is None else gpu(device)),
        **flags,
        **{name: _variable(name) for name in _VARIABLES if name in os.environ},
    }


def environment_differences(
    recorded: Mapping[str, Any], today: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Return the name and both values of all that differs between two environments.

    Compared are the known keys that the recording has. What concerns a GPU counts only if both have
    one: that the device differs is said elsewhere.
    """
    both_on_gpu = bool(recorded.get("gpu") and today.get("gpu"))
    knows_variables = _SINCE_0_2 in recorded
    found: list[tuple[str, str, str]] = []
    for name in _KEYS:
        absent = "not set" if name in _VARIABLES else "none"
        if name not in recorded and not (name in _VARIABLES and knows_variables):
            continue
        if name in _OF_THE_GPU and not both_on_gpu:
            continue
        before, now = str(recorded.get(name, absent)), str(today.get(name, absent))
        if before != now:
            found.append((name, before, now))
    return found


def _variable(name: str) -> str:
    """Return an environment variable as text that can be recorded."""
    return os.environ[name].encode(errors="replace").decode(errors="replace")[:_VARIABLE_CHARS]
