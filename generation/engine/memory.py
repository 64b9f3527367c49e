"""How much memory the process and its device have taken."""

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from tokentape.recorder.events import MemorySampled

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What makes Linux count the peak of resident memory from here: see proc(5)."""


@dataclass(frozen=True, slots=True)
class MemoryWatch:
    """What a turn takes beyond what there was at its beginning.

    The peak of resident memory is told by Linux alone, and counted anew from each beginning.
    """

    device: torch.device
    resident_bytes: int | None

    @classmethod
    def begin(cls, device: torch.device) -> "MemoryWatch":
        reset_peak(device)
        resident: int | None = None
        # A container may forbid it; then the peak of a turn is not known.
        with suppress(OSError):
            _RESET.write_text(_RESET_PEAK)
            resident = _status_bytes("VmRSS")
        return cls(device, resident)

    def sampled(self, turn: int, kv_bytes: int) -> MemorySampled:
        """What is to be recorded at the end of the turn."""
        on_device = self.device.type == "cuda"
        peak = None if self.resident_bytes is None else _status_bytes("VmHWM")
        transient = None
        if peak is not None and self.resident_bytes is not None:
            transient = max(0, peak - self.resident_bytes)
        return MemorySampled(
            turn=turn,
            kv_bytes=kv_bytes,
            process_bytes=int(psutil.Process().memory_info().rss),
            transient_bytes=transient,
            device_bytes=torch.cuda.memory_allocated(self.device) if on_device else None,
            device_peak_bytes=torch.cuda.max_memory_allocated(self.device) if on_device else None,
        )


def reset_peak(device: torch.device) -> None:
    """Count the peak of device memory from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Peak of device memory on CUDA, else of the resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
