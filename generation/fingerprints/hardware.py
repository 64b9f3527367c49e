"""The processor, the GPU and the libraries that torch computes with."""

import ctypes
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch

_CPU_INFO = Path("/proc/cpuinfo")
_DRIVER = Path("/proc/driver/nvidia/version")
_DETAILS = {
    "cpu family": "family",
    "model": "model",
    "stepping": "stepping",
    "CPU implementer": "implementer",
    "CPU part": "part",
}
"""Names in /proc/cpuinfo, the first three on x86 and the others on ARM."""
# Instruction sets for which torch, oneDNN or MKL have kernels of their own.
_FEATURES = re.compile(
    r"avx2|avx_vnni\w*|avx512\w*|avx10\w*|amx_\w+|f16c|fma|asimd\w*|bf16|i8mm|fphp|sve\w*|sme|sme2|smei16i64"
)


@cache
def processor() -> dict[str, str]:
    """Return the name of the processor and those of its instruction sets that kernels use.

    Only Linux lists the instruction sets.
    """
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {"cpu": platform.processor()}
    lines = text.partition("\n\n")[0].splitlines()
    first = {
        key.strip(): value.strip() for key, _, value in (each.partition(":") for each in lines)
    }
    name = first.get("model name") or platform.processor()
    details = [f"{label} {first[key]}" for key, label in _DETAILS.items() if first.get(key)]
    listed = (first.get("flags") or first.get("Features") or "").split()
    return {
        "cpu": ", ".join([name, *details]),
        "cpu_features": " ".join(sorted(each for each in listed if _FEATURES.fullmatch(each))),
    }


@cache
def cpu_libraries() -> dict[str, str]:
    """Return the BLAS that torch was built with, and the versions of MKL and oneDNN."""
    built = torch.__config__.show()
    patterns = {
        "blas": r"BLAS_INFO=(\w+)",
        "mkl": r"Math Kernel Library Version ([\d.]+)",
        "onednn": r"(?:MKL-DNN|oneDNN) v([\w.]+)",
    }
    found = {name: re.search(pattern, built) for name, pattern in patterns.items()}
    return {name: match[1] if match else "" for name, match in found.items()}


def gpu(device: torch.device) -> dict[str, str]:
    """Return the GPU of a CUDA device and the versions of its driver and libraries.

    CUDA is initialised.
    """
    cuda: Any = torch.cuda
    cudnn: Any = torch.backends.cudnn
    properties = cuda.get_device_properties(device)
    return {
        "gpu": str(properties.name),
        "gpu_multiprocessors": str(properties.multi_processor_count),
        "gpu_capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
        "cublas": _cublas(),
        "cudnn": str(cudnn.version() or ""),
        **({"hip": torch.version.hip} if torch.version.hip else {}),
    }


def _driver() -> str:
    """Return the version of NVIDIA's driver; empty where Linux does not list it."""
    try:
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", _DRIVER.read_text(errors="replace"))
    except OSError:
        return ""
    return found[0] if found else ""


@cache
def _cublas() -> str:
    """Return the version of the loaded cuBLAS; empty where none can be found."""
    major = (torch.version.cuda or "").partition(".")[0]
    try:
        library = ctypes.CDLL(f"libcublas.so.{major}")
        parts = [ctypes.c_int() for _ in range(3)]
        for number, part in enumerate(parts):  # libraryPropertyType: major, minor, patch
            library.cublasGetProperty(number, ctypes.byref(part))
    except (OSError, AttributeError):
        return ""
    return ".".join(str(part.value) for part in parts)
