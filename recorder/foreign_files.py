"""Recognition of files that cannot be what their name says, by their first bytes."""

import os
from pathlib import Path

from tokentape.recorder.regular_file import is_special, open_regular

FORMATS = {
    b"SQLite format 3\x00": "a SQLite database",
    b"PK\x03\x04": "a tape or another zip file",
    b"PAR1": "one Parquet file of a folder",
    b"GGUF": "a GGUF model",
    b'{"run_id"': "a file of JSON lines",
}
"""The files of the project by their first bytes."""
SQLITE = FORMATS[b"SQLite format 3\x00"]
HEAD_BYTES = 512
"""How much of a file tells what it is."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_STARTS = (b"\xff\xfe", b"\xfe\xff", b"{\x00", b"\x00{", b"[\x00", b"\x00[")
_BINARY = {
    b"\x1f\x8b": "is compressed with gzip: unpack it with gunzip first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it with zstd -d first",
    b"\xfd7zXZ\x00": "is compressed with xz: unpack it with unxz first",
    b"BZh": "is compressed with bzip2: unpack it with bunzip2 first",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive: unpack it first",
}


def foreign_file(path: Path | str) -> str:
    """Return why a file has none of the project's formats, as the end of a sentence, or "".

    The sentence begins with the path and says what to do: `is a Git LFS pointer, not the file
    itself: run git lfs pull`. Only the first bytes are read. Return "" also for a file that does
    not exist or cannot be read, and for any other content.
    """
    if is_special(path):
        return "is a device or a pipe, not a file: write its content to a file first"
    head = _head(path)
    return _unfetched_annex_file(path) if head is None else foreign_content(head)


def foreign_content(head: bytes) -> str:
    """Return `foreign_file` for a file that begins with those bytes."""
    if not head:
        return "is empty"
    for magic, kind in _BINARY.items():
        if head.startswith(magic):
            return kind
    return _pointer(head) or _text(head)


def known_file(path: Path | str) -> str:
    """Return which of the project's formats a file has, as in `FORMATS`; "" for none of them."""
    return known_content(_head(path) or b"")


def known_content(head: bytes) -> str:
    """Return `known_file` for a file that begins with those bytes."""
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    return next((kind for magic, kind in FORMATS.items() if text.startswith(magic)), "")


def pointer_file(path: Path | str) -> str:
    """Return `foreign_file` for a file whose content is kept elsewhere; "" for any other."""
    head = _head(path)
    return _unfetched_annex_file(path) if head is None else _pointer(head)


def _head(path: Path | str) -> bytes | None:
    """Return the first bytes of a file; None if it cannot be read, or is a device or a pipe."""
    try:
        with open_regular(path) as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError):
        return None


def _pointer(head: bytes) -> str:
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if text.startswith(_LFS_POINTER):
        return "is a Git LFS pointer, not the file itself: run git lfs pull"
    if text.startswith(b"/annex/objects/"):
        return "is a git-annex pointer, not the file itself: run git annex get"
    return ""


def _text(head: bytes) -> str:
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if text[:15].lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "is a web page, not the file itself: download the raw file"
    if head.startswith(_UTF16_STARTS):
        return "is text in UTF-16: convert it to UTF-8"
    if not head.strip(b"\x00"):
        return f"begins with {len(head)} zero bytes: it was not copied completely"
    return ""


def _unfetched_annex_file(path: Path | str) -> str:
    """Return the fault of a symbolic link into the objects of git-annex that leads nowhere."""
    try:
        target = os.readlink(path)
    except (OSError, ValueError):
        return ""
    if "annex/objects/" in target.replace(os.sep, "/"):
        return "is a git-annex link, and its content is not here: run git annex get"
    return ""
