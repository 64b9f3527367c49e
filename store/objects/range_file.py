"""An object that is read in ranges, as a file."""

import io
from collections import OrderedDict
from typing import Any

from tokentape.store.errors import StoreError
from tokentape.store.objects.object_path import ObjectPath, object_errors

WHOLE_BYTES = 1024**2
"""Objects up to this size are read at once: a request takes longer than their bytes."""
_BLOCK_BYTES = 64 * 1024
_BLOCKS_MAX = 512
"""32 MiB of an object are kept, so that headers next to each other take one request."""


class RangeFile(io.RawIOBase):
    """An object opened for reading, which requests only the blocks that are read.

    Raise StoreError if the object cannot be read or was replaced since it was opened: its blocks
    would be those of two objects.
    """

    def __init__(self, path: ObjectPath) -> None:
        super().__init__()
        self._path = path
        # S3 compares with each read.
        self._version = None if path.is_s3 else path.version()
        self._object: Any = path.open()
        self.bytes = int(self._object.size)
        self._block_bytes = WHOLE_BYTES if self.bytes <= WHOLE_BYTES else _BLOCK_BYTES
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.bytes}
        self._position = max(0, starts[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the position on; return how many bytes there were."""
        end = min(self._position + len(buffer), self.bytes)
        found = self._bytes(self._position, end) if end > self._position else b""
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._object.close()
            self._blocks.clear()
        super().close()

    def _bytes(self, start: int, end: int) -> bytes:
        """Return a range. Its missing blocks are requested at once."""
        size = self._block_bytes
        first, last = start // size, (end - 1) // size
        missing = [each for each in range(first, last + 1) if each not in self._blocks]
        if last - first >= _BLOCKS_MAX:
            return self._fetched(start, end)
        if missing:
            from_, to = missing[0] * size, min((missing[-1] + 1) * size, self.bytes)
            content = self._fetched(from_, to)
            for at in range(0, len(content), size):
                self._blocks[(from_ + at) // size] = content[at : at + size]
        blocks = []
        for each in range(first, last + 1):
            self._blocks.move_to_end(each)
            blocks.append(self._blocks[each])
        while len(self._blocks) > _BLOCKS_MAX:
            self._blocks.popitem(last=False)
        skipped = start - first * size
        return b"".join(blocks)[skipped : skipped + end - start]

    def _fetched(self, start: int, end: int) -> bytes:
        with object_errors(f"cannot read {self._path}"):
            self._object.seek(start)
            content = bytes(self._object.read(end - start))
            if len(content) != end - start:
                raise ValueError(f"it ends at byte {start + len(content)} of {self.bytes}")
        if self._version is not None and self._path.version() != self._version:
            raise StoreError(f"cannot read {self._path}: another process replaced it meanwhile")
        return content
