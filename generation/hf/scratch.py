"""Memory for large temporary tensors on the CPU, which is used again for the next one."""

from typing import Any

import torch

# From this size, glibc takes memory from the system for each tensor and gives it back after it
# (DEFAULT_MMAP_THRESHOLD_MAX). Its pages are cleared at the first write: a cast of 113 MB took 44
# ms in new memory and 5 ms in the same memory again.
_BYTES_MIN = 32 * 1024**2

_use_count: Any = getattr(torch._C, "_storage_Use_Count", None)


class Scratch:
    """The memory of one large tensor at a time.

    The memory is handed out again only when no tensor refers to it, a view included.
    """

    def __init__(self) -> None:
        self._storage: torch.UntypedStorage | None = None
        self._unused_count = 0

    def cast(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return a contiguous copy in a dtype, in this memory if that is worth it and it is free.

        Where gradients are recorded, the copy is an ordinary one: autograd may keep it.
        """
        size = tensor.numel() * dtype.itemsize
        if (
            size < _BYTES_MIN
            or tensor.device.type != "cpu"
            or torch.is_grad_enabled()
            or not tensor.is_contiguous()
        ):
            return tensor.to(dtype)
        storage = self._free_storage(size)
        if storage is None:
            return tensor.to(dtype)
        copy = torch.empty(0, dtype=dtype).set_(storage, 0, tensor.shape, tensor.stride())
        return copy.copy_(tensor)

    def clear(self) -> None:
        """Free the memory as soon as no tensor refers to it."""
        self._storage = None

    def _free_storage(self, size: int) -> torch.UntypedStorage | None:
        if _use_count is None:
            return None
        storage = self._storage
        if storage is not None and _use_count(storage._cdata) > self._unused_count:
            return None
        if storage is None or storage.nbytes() < size:
            # The smaller one is freed before.
            storage = self._storage = None
            storage = self._storage = torch.empty(size, dtype=torch.uint8).untyped_storage()
            self._unused_count = _use_count(storage._cdata)
        return storage
