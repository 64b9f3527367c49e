"""Replace a file in one step: a reader sees the old content or the new, never a part of it."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tokentape.recorder.leftovers import FILE_PREFIX, create_locked, remove_leftovers
from tokentape.recorder.regular_file import check_not_special

TMP_PREFIX = FILE_PREFIX
"""How the name of every temporary file begins.

A killed process may leave one in the folder; the next write there removes it.
"""


class AtomicFile:
    """A temporary file that replaces `path` when it is committed.

    It is created empty, in the folder of `path`, so that a folder that cannot be written to fails
    at once. The caller writes to `tmp_path`, then calls `commit`. Used as a context manager, it
    removes the temporary file unless that was committed. Several writers of one path do not
    disturb each other: the last commit wins.

    A temporary file of a process that is gone is removed from the folder.

    A file that is replaced keeps its permission bits; a new one gets `mode`, less the umask. A
    symbolic link is replaced, not followed. With `durable`, the content and the name have reached
    the disk when `commit` returns. Raise OSError where the file system refuses, and if `path` leads
    to a device, a pipe or a socket.
    """

    def __init__(self, path: Path, *, durable: bool = False, mode: int = 0o666) -> None:
        check_not_special(path)
        self.path = path
        self._durable = durable
        self._is_synced = False
        remove_leftovers(path.parent)
        self.tmp_path, self._descriptor = create_locked(path.parent, mode)
        try:
            with suppress(FileNotFoundError):
                self.tmp_path.chmod(stat.S_IMODE(path.lstat().st_mode))
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    def sync(self) -> None:
        """Wait until the content has reached the disk. Call it after the last write."""
        with self.tmp_path.open("rb+") as file:
            os.fsync(file.fileno())
        self._is_synced = True

    def commit(self) -> None:
        """Rename the temporary file to `path`."""
        if self._durable and not self._is_synced:
            self.sync()
        if sys.platform == "win32":
            self._unlock()
        self.tmp_path.replace(self.path)
        self._unlock()
        if self._durable:
            sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove the temporary file, unless it was committed."""
        if sys.platform == "win32":
            self._unlock()
        self.tmp_path.unlink(missing_ok=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


@contextmanager
def atomic_write(path: Path, *, durable: bool = False, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary path to write to, and replace `path` with it when the block ends.

    When the block raises, `path` stays unchanged and the temporary file is removed. See
    `AtomicFile` for permissions, links and `durable`.
    """
    with AtomicFile(path, durable=durable, mode=mode) as file:
        yield file.tmp_path
        file.commit()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder have reached the disk. Windows does so by itself."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
