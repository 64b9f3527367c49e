"""Recognition of files that cannot be what their name says, by their first bytes."""

import os
from pathlib import Path

_HEAD_BYTES = 512
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
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
    try:
        if os.path.isdir(path):
            return "is a folder, not a file"
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return _unfetched_annex_file(path)
    return _kind_of(head)


def _kind_of(head: bytes) -> str:
    if not head:
        return "is empty"
    for magic, kind in _BINARY.items():
        if head.startswith(magic):
            return kind
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(_LFS_POINTER):
        return "is a Git LFS pointer, not the file itself: run git lfs pull"
    if text.startswith(b"/annex/objects/"):
        return "is a git-annex pointer, not the file itself: run git annex get"
    if text[:15].lower().startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "is a web page, not the file itself: download the raw file"
    if head.startswith(_UTF16_MARKS):
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
