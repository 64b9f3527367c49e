"""Distinguish URLs of object stores from paths and database URLs."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tokentape.recorder.paths import expand_path
from tokentape.store.errors import StoreError

# One letter is a drive of Windows. `simplecache::s3://…` is a chain of file systems.
_URL = re.compile(r"(?P<schemes>[a-z][a-z0-9+.-]+(?:::[a-z][a-z0-9+.-]+)*)://", re.IGNORECASE)
# `Path` makes one slash of two.
_URL_AS_PATH = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):[/\\]", re.IGNORECASE)
_SECRET = re.compile(r"(?<=://)[^/@]+@")
_DATABASES = re.compile(r"(sqlite|postgres|postgresql)(\+\w+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ObjectUrl:
    """The URL of a folder or file that fsspec reads, such as `s3://bucket/runs`."""

    text: str

    def __str__(self) -> str:
        """Return the URL without a user name or password."""
        return _SECRET.sub("", self.text)

    def joined(self, name: str) -> "ObjectUrl":
        """Return the URL of a name below a folder."""
        return ObjectUrl(f"{self.text.rstrip('/')}/{name}")


def object_url(text: str) -> ObjectUrl | None:
    """Return a text as the URL of an object store, if fsspec knows its scheme; else None.

    Names with colons, Windows paths and database URLs are none: `C:/runs`, `a:b`, `sqlite:///x`.
    """
    found = _URL.match(text)
    if found is None:
        return None
    schemes = found["schemes"].lower().split("::")
    if all(_is_known(each) for each in schemes):
        return ObjectUrl(text)
    return None


def file_location(where: str | os.PathLike[str]) -> Path | ObjectUrl:
    """Return where a file or folder of copies of runs is: a path, or a URL of an object store.

    A leading `~` of a path is the home folder. Raise StoreError for a URL of another kind, and for
    a URL that was made into a `Path`.
    """
    text = os.fsdecode(where)
    if not isinstance(where, str):
        check_not_url(text)
        return expand_path(text)
    url = object_url(text)
    if url is not None:
        return url
    scheme = _URL.match(text)
    if scheme is not None and not Path(text).parent.exists():
        known = "a database is not a file to copy runs to or from"
        unknown = "no installed library knows its scheme"
        why = known if _DATABASES.fullmatch(scheme["schemes"]) else unknown
        raise StoreError(f"{scheme[0]}… is not the URL of a file or folder: {why}")
    return expand_path(text)


def check_not_url(path: str) -> None:
    """Raise StoreError for the text of a `Path` that was made of the URL of an object store."""
    found = _URL_AS_PATH.match(path)
    if found is None or Path(found[0]).exists():
        return
    if not _DATABASES.fullmatch(found["scheme"]) and _is_known(found["scheme"].lower()):
        raise StoreError(
            f"{path!r} is a Path, which has lost a slash of the URL: write {found['scheme']}://… "
            "as text"
        )


def _is_known(scheme: str) -> bool:
    # It takes 0.1 s to import, and most stores are files.
    from fsspec.registry import known_implementations, registry

    return scheme != "file" and (scheme in known_implementations or scheme in registry)
