"""Temporary files and folders, and the removal of those that a killed process left.

A process holds a lock on each of its own (`flock`), which its death releases. So a leftover is told
from the file of a writer that lives, without regard to its age.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

if sys.platform != "win32":
    import fcntl

FILE_PREFIX = ".writing-"
FOLDER_PREFIX = ".packing-"
_FILE = re.compile(rf"{re.escape(FILE_PREFIX)}[0-9a-f]{{32}}")
_FOLDER = re.compile(rf"{re.escape(FOLDER_PREFIX)}[a-z0-9_]{{8}}")


def create_locked(folder: Path, mode: int) -> tuple[Path, int]:
    """Create an empty temporary file in a folder; return its path and a descriptor of it.

    The lock lasts until the descriptor is closed. Raise OSError where the file system refuses.
    """
    while True:
        path = folder / f"{FILE_PREFIX}{uuid4().hex}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        # Another process may take it for a leftover before it is locked.
        if _lock_own(path, descriptor):
            return path, descriptor
        os.close(descriptor)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder, which is removed at the end."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
        if sys.platform == "win32":
            descriptor = None
            break
        descriptor = os.open(path, os.O_RDONLY)
        if _lock_own(path, descriptor):
            break
        os.close(descriptor)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(folder: Path, names: Iterable[Path] | None = None) -> None:
    """Remove temporary files and folders of processes that are gone.

    `names` are the paths to look at; None for all in `folder`. What another program made, what a
    living process holds, and what cannot be removed stays. On Windows this does nothing.
    """
    if sys.platform == "win32":
        return
    with suppress(OSError):
        for path in list(folder.iterdir() if names is None else names):
            is_folder = _FOLDER.fullmatch(path.name) is not None
            if is_folder or _FILE.fullmatch(path.name):
                _remove_unless_held(path, is_folder)


def _remove_unless_held(path: Path, is_folder: bool) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_folder:
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(descriptor)


def _lock_own(path: Path, descriptor: int) -> bool:
    """Lock a file that was just created; return False if it was removed before it was locked."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        # A file system without locks: then no leftover is removed there either.
        return True
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
