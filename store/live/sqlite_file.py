"""Checks of a SQLite file before it is opened. They only read."""

import os
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlalchemy.engine import URL

from tokentape.recorder.foreign_files import foreign_file, known_file
from tokentape.recorder.regular_file import is_special, open_regular
from tokentape.store.errors import StoreError
from tokentape.store.location import is_in_memory

_LOG_HEADER = struct.Struct(">8I")
_LOG_MAGIC = 0x377F0682
_REMEDIES = {
    "a tape or another zip file": ": name it by its path, not by a URL",
    "one Parquet file of a folder": ": name the folder that tokentape export wrote",
    "a file of JSON lines": ": add its runs to a store with tokentape import",
}
_COMPANIONS = ("-wal", "-shm", "-journal")
_LOG_ATTEMPTS = 5
_LOG_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """The file that was opened under a path. SQLite keeps writing to it after it is moved."""

    path: Path
    status: os.stat_result

    @classmethod
    def of(cls, url: URL) -> Self | None:
        """Return the file of a database; None for a database without one."""
        if url.get_backend_name() != "sqlite" or is_in_memory(url):
            return None
        path = Path(str(url.database)).absolute()
        return cls(path, path.stat())

    def check_in_place(self) -> None:
        """Raise StoreError if the path no longer leads to the file that was opened."""
        try:
            is_same = os.path.samestat(self.path.stat(), self.status)
        except OSError:
            is_same = False
        if not is_same:
            raise StoreError(
                f"{self.path} was moved or replaced while it was open: what is recorded now would "
                "be lost; open the store again"
            )

    def check_unwritten(self) -> None:
        """Raise StoreError if the file has been written to since it was opened."""
        try:
            now = self.path.stat()
            is_same = (now.st_ino, now.st_size, now.st_mtime_ns) == (
                self.status.st_ino,
                self.status.st_size,
                self.status.st_mtime_ns,
            )
        except OSError:
            is_same = False
        if not is_same or unread_log(self.path):
            raise StoreError(
                f"{self.path} was written to while it was read without a lock, because its folder "
                "is read-only: open it again"
            )


def real_path(path: Path) -> Path:
    """Return the path without symbolic links: SQLite keeps its log in the folder of the file."""
    return Path(os.path.realpath(path))


def check_header(path: Path) -> bool:
    """Return whether a file exists and is not empty.

    Raise StoreError unless it then begins as a SQLite database, OSError if it cannot be read.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a database file")
    if is_special(path):
        raise StoreError(f"{path} {foreign_file(path)}")
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open_regular(path) as file:
        if file.read(16) == b"SQLite format 3\x00":
            return True
    found = foreign_file(path)
    if not found and (kind := known_file(path)):
        found = f"is {kind}{_REMEDIES.get(kind, '')}"
    raise StoreError(f"{path} {found or 'is not a database: it has no SQLite header'}")


def unread_log(path: Path) -> str:
    """Return the name of a log of a file that is not empty, or ""."""
    real = real_path(path)
    for suffix in ("-wal", "-journal"):
        log = real.with_name(real.name + suffix)
        with suppress(FileNotFoundError):
            if log.stat().st_size:
                return log.name
    return ""


def check_log(path: Path) -> None:
    """Raise StoreError if the write-ahead log of a file is missing, damaged or of another file.

    SQLite would open the file without the log, and its newest events would be lost.
    """
    for name in (f"{real_path(path).name}{suffix}" for suffix in _COMPANIONS):
        companion = real_path(path).with_name(name)
        # SQLite opens it, too, and would wait for a writer of a pipe.
        if is_special(companion):
            raise StoreError(f"{companion} {foreign_file(companion)}")
    for _ in range(_LOG_ATTEMPTS):
        fault = _fault_of_log(path)
        if not fault:
            return
        # The last process to close a store removes its log and index, one after the other.
        time.sleep(_LOG_PAUSE_S)
    raise StoreError(fault)


def _fault_of_log(path: Path) -> str:
    path = real_path(path)
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    try:
        with open_regular(log) as file:
            header = file.read(_LOG_HEADER.size)
    except FileNotFoundError:
        if not (index.exists() and path.exists()):
            return ""
        return (
            f"{log} is missing: {path} was being written, and its newest events are in the log. "
            f"Put it back, or remove {index.name} to continue without them"
        )
    if header and not _is_log_header(header):
        return (
            f"{log} is damaged: the newest events of {path} are in it. Put the log back, or remove "
            "it to continue without them"
        )
    if header and path.exists() and path.stat().st_size == 0:
        return f"{path} is empty, and {log} is not: put the file back that the log belongs to"
    return ""


def _is_log_header(header: bytes) -> bool:
    """Return whether SQLite will read the log: https://sqlite.org/fileformat2.html#walformat."""
    if len(header) < _LOG_HEADER.size:
        return False
    magic, *_, recorded_a, recorded_b = _LOG_HEADER.unpack(header)
    words = struct.unpack(">6I" if magic & 1 else "<6I", header[:24])
    a = b = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        a = (a + first + b) & 0xFFFFFFFF
        b = (b + second + a) & 0xFFFFFFFF
    return magic & ~1 == _LOG_MAGIC and (a, b) == (recorded_a, recorded_b)
