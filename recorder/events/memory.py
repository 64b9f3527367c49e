"""The event of measured memory."""

from dataclasses import dataclass
from typing import ClassVar

from tokentape.recorder.events.checks import check_counts
from tokentape.recorder.events.traits import EventBase


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySampled(EventBase):
    """The memory in use at the end of a turn, in bytes."""

    version: ClassVar[int] = 2

    turn: int
    kv_bytes: int
    """The storage of all cached keys and values."""
    process_bytes: int
    """The resident memory of the process."""
    transient_bytes: int | None
    """The peak of the resident memory in the turn, less that at its start; None if unknown."""
    device_bytes: int | None
    """The accelerator's memory in use; None without an accelerator."""
    device_peak_bytes: int | None
    """The peak of the accelerator's memory; None without an accelerator."""
    device_reserved_bytes: int | None
    """The accelerator's memory that torch's allocator holds, in use or not
    (`torch.cuda.memory_reserved`). Other programs cannot use it. None without an accelerator."""
    device_fragmented_bytes: int | None
    """The free pieces of blocks that are partly in use (`inactive_split_bytes`): only a tensor that
    is small enough can have one, and the allocator cannot give it back. None without an accelerator
    or if its allocator does not say."""

    def __post_init__(self) -> None:
        check_counts(
            turn=self.turn,
            kv_bytes=self.kv_bytes,
            process_bytes=self.process_bytes,
            transient_bytes=self.transient_bytes,
            device_bytes=self.device_bytes,
            device_peak_bytes=self.device_peak_bytes,
            device_reserved_bytes=self.device_reserved_bytes,
            device_fragmented_bytes=self.device_fragmented_bytes,
        )
