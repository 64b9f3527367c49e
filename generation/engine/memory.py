"""The memory that the process and its device use."""

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
"""Written to `clear_refs`, it restarts the peak of resident memory; see proc(5)."""
_FRAGMENTED = "inactive_split_bytes.all.current"


@dataclass(frozen=True, slots=True)
class MemoryWatch:
    """A measurement of the memory that a turn uses beyond the memory in use at its beginning.

    Only Linux reports a peak of resident memory that can be restarted.
    """

    device: torch.device
    resident_bytes: int | None
    """Resident memory at the beginning; None if the peak cannot be measured."""

    @classmethod
    def begin(cls, device: torch.device) -> "MemoryWatch":
        """Return a watch that begins now."""
        reset_peak(device)
        resident: int | None = None
        # A container may forbid it.
        with suppress(OSError):
            _RESET.write_text(_RESET_PEAK)
            resident = _status_bytes("VmRSS")
        return cls(device, resident)

    def sampled(self, turn: int, kv_bytes: int) -> MemorySampled:
        """Return the event to record at the end of the turn."""
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
            device_reserved_bytes=torch.cuda.memory_reserved(self.device) if on_device else None,
            device_fragmented_bytes=_fragmented_bytes(self.device) if on_device else None,
        )


def reset_peak(device: torch.device) -> None:
    """Restart the peak of device memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Return the peak of device memory on CUDA, else of the resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # missing on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _fragmented_bytes(device: torch.device) -> int | None:
    """Return the free bytes in blocks that are partly in use; None if the allocator has no count.

    Blocks that are free as a whole do not count: the allocator gives them back when memory runs
    out. See `torch.cuda.memory_stats`.
    """
    found = torch.cuda.memory_stats(device).get(_FRAGMENTED)
    return None if found is None else int(found)


def _status_bytes(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
