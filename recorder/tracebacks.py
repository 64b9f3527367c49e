"""Tracebacks as text that is recorded: without the folders of the machine, and limited in size."""

import contextlib
import os
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

CHARS_MAX = 20_000
_CUT = "\n[…]\n"


def traceback_text(error: BaseException, trace: TracebackType | None = None) -> str:
    """Return an exception and its causes as Python prints them, in at most `CHARS_MAX` characters.

    `trace` replaces the traceback of the exception. A file is named by its path within the
    current folder, within the folder of installed packages or of Python, else by its last name.
    Text that cannot be encoded in UTF-8 is escaped.
    """
    trace = error.__traceback__ if trace is None else trace
    try:
        described = traceback.TracebackException(type(error), error, trace, compact=True)
        for each in _with_causes(described):
            shorten_paths(each.stack)
            if isinstance(getattr(each, "filename", None), str):  # of a SyntaxError
                each.filename = _shortened(each.filename, _folders())
        text = "".join(described.format())
    except Exception:  # the methods of an exception are code of its author
        text = f"{type(error).__name__}\n"
    return limited(text)


def shorten_paths(frames: Iterable[traceback.FrameSummary]) -> None:
    """Replace the path of each frame's file as `traceback_text` names it."""
    folders = _folders()
    for frame in frames:
        frame.filename = _shortened(frame.filename, folders)


def limited(text: str) -> str:
    """Return a text encodable in UTF-8, with its middle left out if it is too long."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= CHARS_MAX:
        return text
    half = (CHARS_MAX - len(_CUT)) // 2
    return text[:half] + _CUT + text[-half:]


def _with_causes(
    described: traceback.TracebackException,
) -> Iterator[traceback.TracebackException]:
    """Yield an exception, its causes and contexts, and the members of groups, once each."""
    seen: set[int] = set()
    pending: list[traceback.TracebackException | None] = [described]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ())]


def _folders() -> list[str]:
    """Return the folders that are left out of paths, the longest first."""
    paths = sysconfig.get_paths()
    known = [paths["purelib"], paths["platlib"], paths["stdlib"], *site.getsitepackages()]
    known += [each for each in sys.path if each.endswith("site-packages")]
    with contextlib.suppress(OSError):  # the current folder may have been removed
        known.append(str(Path.cwd()))
    return sorted({each.rstrip(os.sep) + os.sep for each in known if each}, key=len, reverse=True)


def _shortened(path: str, folders: Iterable[str]) -> str:
    for folder in folders:
        if path.startswith(folder):
            return path[len(folder) :]
    return Path(path).name if os.path.isabs(path) else path
