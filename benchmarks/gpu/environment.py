"""Section 1: the card, the versions and the flags that all figures depend on."""

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch

from benchmarks.gpu.bench import Bench
from tokentape.generation.fingerprints.environment import environment

_PACKAGES = (
    "tokentape",
    "tokenizers",
    "huggingface_hub",
    "accelerate",
    "numpy",
    "pandas",
    "pyarrow",
    "sqlalchemy",
    "alembic",
)


def measure(bench: Bench) -> None:
    """Find what an environment fingerprint has, the versions, and the size of the machine."""
    bench.measure("environment", environment, bench.cuda)
    bench.measure("packages", _packages)
    bench.measure("machine", _machine, bench)


def _packages() -> dict[str, str]:
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _machine(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "threads": torch.get_num_threads(),
    }
    if bench.cuda is not None:
        free, total = torch.cuda.mem_get_info(bench.cuda)
        found |= {"card_bytes": total, "card_free_bytes": free}
    return found
