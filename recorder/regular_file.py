"""Opening of files that are named by somebody else, without waiting for a pipe or a device."""

import errno
import io
import os
import stat
from pathlib import Path

_KERNEL_FOLDERS = ("/proc/", "/sys/")


def is_special(path: Path | str) -> bool:
    """Return whether a path leads to something that is neither a file nor a folder.

    The files of the kernel in /proc and /sys count, too: their sizes are unknown, and reading one
    may wait for ever.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return True
    return stat.S_ISREG(mode) and os.path.realpath(path).startswith(_KERNEL_FOLDERS)


def check_not_special(path: Path | str) -> None:
    """Raise OSError if a path leads to a device, a pipe or a socket, such as /dev/stdout.

    Call it before a file is read: reading a pipe may wait for ever.
    """
    if is_special(path):
        raise _special(path)


def open_regular(path: Path | str) -> io.BufferedReader:
    """Return a file opened for reading bytes.

    Raise OSError without waiting if it is a device, a pipe or a socket, and as `open` does.
    """
    check_not_special(path)
    # Between the check and here, another process may have put a pipe in its place.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise _special(path)
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path | str, bytes_max: int) -> bytes:
    """Return the bytes of a file. Raise OSError as `open_regular`, and for a larger file."""
    with open_regular(path) as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise OSError(errno.EFBIG, f"it has more than {bytes_max:,} bytes", str(path))
    return content


def read_text(path: Path | str, bytes_max: int) -> str:
    """Return the text of a file in UTF-8, as Python reads it: with `\n` at the end of each line.

    Raise as `read_regular`, and ValueError if it is not text in UTF-8.
    """
    content = read_regular(path, bytes_max)
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()


def _special(path: Path | str) -> OSError:
    return OSError(errno.EINVAL, "it is a device or a pipe, not a file", str(path))
