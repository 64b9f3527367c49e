"""The machine that a benchmark ran on, and its clock."""

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

import tokentape as tt

_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The hardware and the versions that figures depend on."""

    processor: str
    cores: int
    memory_bytes: int
    threads: int
    gpu: str | None
    python: str
    tokentape: str
    torch: str
    transformers: str

    def line(self) -> str:
        """Return a line to print above the tables."""
        gpu = f", {self.gpu}" if self.gpu else ""
        return (
            f"measured on {self.processor}, {self.cores} cores, "
            f"{self.memory_bytes / 1e9:.0f} GB{gpu}; "
            f"{self.threads} threads, torch {self.torch}, transformers {self.transformers}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def this_machine() -> Machine:
    """Return the description of this machine."""
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        python=platform.python_version(),
        tokentape=tt.__version__,
        torch=torch.__version__,
        transformers=transformers.__version__,
    )


def now_s(device: torch.device) -> float:
    """Return the seconds of a clock, after waiting for the work queued on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _processor() -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
