"""The URL or path of a store, taken apart: the file that is named is the file that is opened."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from tokentape.recorder.paths import expand_path
from tokentape.store.errors import StoreError
from tokentape.store.objects.urls import ObjectUrl, check_not_url, object_url

IN_MEMORY = ":memory:"
_SCHEME = re.compile(r"(sqlite|postgres|postgresql)(\+\w+)?:", re.IGNORECASE)
# `Path` makes one slash of two.
_SCHEME_OF_PATH = re.compile(r"(sqlite|postgres|postgresql|file)(\+\w+)?:/", re.IGNORECASE)
_IGNORED_PARAMETERS = ("cache", "check_same_thread", "timeout", "uri")
"""Parameters of SQLite URLs that other programs need and that change nothing here."""
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


def parse_location(where: str | os.PathLike[str]) -> Path | URL | ObjectUrl:
    """Return a URL for a database URL or a SQLite `file:` URI, and a path for anything else.

    The URL of a folder or a tape in an object store is an `ObjectUrl`.

    The `database` of a SQLite URL is the path of the file, not encoded, or `:memory:`; its `query`
    has at most `mode` (`ro`, `rw` or `rwc`) and `immutable` (`1`). A leading `~` is the home folder
    in both. Raise StoreError for a URL that names no store, and for a malformed one.
    """
    text = os.fsdecode(where)
    if not text:
        raise StoreError("the name of the store is empty")
    if "\x00" in text:
        raise StoreError(f"{text!r} names no store: it contains a NUL")
    mistaken = _SCHEME if isinstance(where, str) else _SCHEME_OF_PATH
    if isinstance(where, str):
        if text.lower().startswith("file:"):
            return _file_uri(text)
        scheme, separator, _ = text.partition("://")
        # One letter is a drive of Windows.
        if separator and len(scheme) != 1 and "/" not in scheme and os.sep not in scheme:
            if scheme.lower().partition("+")[0] == "sqlite":
                return _sqlite_url(text)
            return _object_url(text, scheme) or _server_url(text, scheme)
    else:
        check_not_url(text)
    if mistaken.match(text):
        raise StoreError(
            f"{text!r} is not a URL of a store: write sqlite:///FILE or "
            "postgresql+psycopg://USER@HOST/DATABASE, as text and not as a Path"
        )
    return expand_path(text)


def sqlite_url(path: Path, **query: str) -> URL:
    """Return the URL of a SQLite file. Its `database` is the path, whatever characters it has."""
    name = str(path)
    if name == IN_MEMORY:
        name = os.path.abspath(name)
    return URL.create("sqlite", database=name, query=query)


def shown(url: URL) -> str:
    """Return a URL as text without its password; `open_store` opens the same store by it.

    For a server with a password, the password must be added.
    """
    if url.get_backend_name() != "sqlite":
        return url.render_as_string()
    if is_in_memory(url):
        return "sqlite://"
    name = str(url.database)
    if name.startswith("~"):
        name = f"./{name}"
    # Only what a URL could mistake: messages stay readable.
    name = name.replace("%", "%25").replace("?", "%3F")
    query = "&".join(f"{key}={value}" for key, value in url.query.items())
    # Bytes that are no text.
    name = re.sub("[\udc80-\udcff]", lambda found: quote(os.fsencode(found.group())), name)
    return f"sqlite:///{name}{'?' if query else ''}{query}"


def is_in_memory(url: URL) -> bool:
    """Return whether a URL names a SQLite database without a file."""
    return url.get_backend_name() == "sqlite" and url.database in (None, "", IN_MEMORY)


def _sqlite_url(text: str) -> URL:
    """Return the URL of `sqlite:///FILE?PARAMETERS`, whose file may have `%XX` for a character."""
    scheme, _, rest = text.partition("://")
    if scheme.lower() not in ("sqlite", "sqlite+pysqlite"):
        raise StoreError(f"{scheme} is not supported: use sqlite:///FILE")
    encoded, mark, parameters = rest.partition("?")
    if encoded and not encoded.startswith("/"):
        raise StoreError(f"{text!r} has two slashes where a file needs three: sqlite:///{rest}")
    query = _parameters(text, parameters) if mark else {}
    name = encoded[1:]
    if name.startswith("file:") and "uri" in dict(parse_qsl(parameters)):
        place = _file_uri(f"{name}?{parameters}")
        return sqlite_url(place) if isinstance(place, Path) else place
    if name in ("", IN_MEMORY) or query.get("mode") == "memory":
        return URL.create("sqlite", database=IN_MEMORY)
    path = expand_path(_decoded(name))
    if _ESCAPE.search(name) and expand_path(name).exists() and not path.exists():
        raise StoreError(
            f"{text!r} names the file {str(path)!r}, which does not exist, while {name!r} does: "
            f"write % as %25 in a URL, or name the file by its path"
        )
    return sqlite_url(path, **query)


def _file_uri(text: str) -> URL | Path:
    """Return the place of a URI as SQLite defines it: https://sqlite.org/uri.html."""
    rest, _, _ = text[len("file:") :].partition("#")
    encoded, mark, parameters = rest.partition("?")
    query = _parameters(text, parameters) if mark else {}
    if encoded.startswith("//"):
        host, slash, of_host = encoded[2:].partition("/")
        if host not in ("", "localhost"):
            raise StoreError(f"{text!r} names the host {host}: only files of this machine are read")
        encoded = slash + of_host
    name = _decoded(encoded)
    if name in ("", IN_MEMORY) or query.get("mode") == "memory":
        return URL.create("sqlite", database=IN_MEMORY)
    path = expand_path(name)
    return sqlite_url(path, **query) if query else path


def _parameters(text: str, parameters: str) -> dict[str, str]:
    """Return the parameters of a SQLite URL that count. Raise StoreError for unknown ones."""
    given = dict(parse_qsl(parameters, keep_blank_values=True))
    mode, immutable = given.pop("mode", ""), given.pop("immutable", "0")
    unknown = [name for name in given if name not in _IGNORED_PARAMETERS]
    if unknown or not parameters:
        raise StoreError(
            f"{text!r} has other parameters than a SQLite store (mode, immutable): "
            "write a ? of a file name as %3F in a URL, or name the file by its path"
        )
    if mode not in ("", "ro", "rw", "rwc", "memory"):
        raise StoreError(f"{text!r}: mode must be ro, rw, rwc or memory, not {mode!r}")
    found = {"mode": mode} if mode else {}
    if immutable.lower() not in ("0", "no", "false", "off", ""):
        found = {"mode": "ro", "immutable": "1"}
    return found


def _decoded(encoded: str) -> str:
    """Return a path with every `%XX` decoded. Raise StoreError for one with a NUL."""
    name = unquote(encoded, errors="surrogateescape")
    if "\x00" in name:
        raise StoreError(f"{encoded!r} names no store: it contains a NUL")
    return name


def _object_url(text: str, scheme: str) -> ObjectUrl | None:
    # Not asked of fsspec, which takes 0.1 s to import.
    is_postgres = scheme.lower().partition("+")[0] in ("postgres", "postgresql")
    return None if is_postgres else object_url(text)


def _server_url(text: str, scheme: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The text may have a password.
        raise StoreError(
            f"{scheme + '://…'!r} is neither a database URL nor a path: use sqlite:///FILE or "
            "postgresql+psycopg://USER@HOST/DATABASE"
        ) from None
    return url.set(drivername=_DRIVERS.get(scheme.lower(), scheme))


_DRIVERS: Mapping[str, str] = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
