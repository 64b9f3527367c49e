"""Requests to a folder or an object in an object store, and their errors.

An object is there completely or not at all: it has no temporary name, and nothing is renamed. So a
file is written here, and sent in one piece. A library of an object store raises classes of its
own; `object_errors` makes a StoreError of one line of each.
"""

import errno
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from tokentape.recorder.damage import describe_damage
from tokentape.recorder.errors import TokentapeError
from tokentape.store.errors import MissingLibraryError, StoreError
from tokentape.store.objects.urls import ObjectUrl

Kind = Literal["folder", "file", "missing"]

_HASHED_BYTES = 4 * 1024**2
_ONE_REQUEST_BYTES = 100 * 1024**2 - 1
"""Larger files are sent by s3fs in several requests, which take no `IfMatch`."""
_EXTRAS = {"s3fs": "s3"}
"""The extra of a library, by its name."""


class ReplacedMeanwhileError(StoreError):
    """Another process wrote an object since it was read."""


class MissingObjectError(StoreError):
    """An object does not exist."""


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """The content of an object at a moment, as far as its store tells contents apart."""

    token: str
    etag: str | None


class ObjectPath:
    """A folder or an object at a URL. Every method raises StoreError if the store refuses.

    Nothing is cached: what another process has written is seen at once.
    """

    def __init__(self, filesystem: Any, key: str, where: str) -> None:
        self.filesystem, self.key, self.where = filesystem, key, where

    @classmethod
    def connect(cls, url: ObjectUrl) -> "ObjectPath":
        """Return the place of a URL.

        Its credentials and endpoint are those that fsspec finds: in the environment, in files of
        the store's own tools, or in the configuration of fsspec. Raise MissingLibraryError if the
        library of its scheme is not installed.
        """
        # It takes 0.1 s to import, and most stores are files.
        from fsspec.core import url_to_fs

        try:
            with object_errors(f"cannot open {url}"):
                filesystem, key = url_to_fs(url.text.rstrip("/"), use_listings_cache=False)
        except StoreError as error:
            if isinstance(error.__cause__, ImportError):
                raise MissingLibraryError(f"{url} {_missing_library(error.__cause__)}") from None
            raise
        return cls(filesystem, key.rstrip("/"), str(url).rstrip("/"))

    def __str__(self) -> str:
        return self.where

    def joined(self, name: str) -> "ObjectPath":
        """Return the place of a name below this folder."""
        return ObjectPath(self.filesystem, f"{self.key}/{name}", f"{self.where}/{name}")

    def kind(self) -> Kind:
        """Return whether this is a folder, a file or missing. A folder has at least one object."""
        with object_errors(f"cannot read {self}"):
            try:
                found = self.filesystem.info(self.key)
            except FileNotFoundError as error:
                if _is_about_bucket(error):
                    raise
                return "missing"
        return "folder" if found["type"] == "directory" else "file"

    def version(self) -> ObjectVersion | None:
        """Return the version of the object's content; None if there is no object."""
        with object_errors(f"cannot read {self}"):
            try:
                found = self.filesystem.info(self.key)
            except FileNotFoundError as error:
                if _is_about_bucket(error):
                    raise
                return None
        if found["type"] == "directory":
            return None
        token = hashlib.sha256(repr(sorted(found.items(), key=str)).encode()).hexdigest()
        return ObjectVersion(token, found.get("ETag"))

    def check_replaceable(self) -> ObjectVersion | None:
        """Return what `version` does. Raise StoreError if a folder is in the way."""
        if self.kind() == "folder":
            raise StoreError(f"cannot write {self}: it is a folder")
        return self.version()

    def size(self) -> int:
        """Return the size of the object in bytes. Raise StoreError if there is none."""
        with object_errors(f"cannot read {self}"):
            return int(self.filesystem.info(self.key)["size"])

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of the object, or of a range of it."""
        with object_errors(f"cannot read {self}"):
            return bytes(self.filesystem.cat_file(self.key, start=start, end=end))

    def sha256(self) -> str:
        """Return the sum of the object's bytes, which are read in pieces."""
        with object_errors(f"cannot read {self}"):
            found = hashlib.sha256()
            with self.filesystem.open(self.key, "rb", block_size=_HASHED_BYTES) as file:
                while piece := file.read(_HASHED_BYTES):
                    found.update(piece)
            return found.hexdigest()

    def entries(self) -> dict[str, Kind]:
        """Return the kinds of the entries of this folder by name; empty if it does not exist."""
        with object_errors(f"cannot read {self}"):
            try:
                found = self.filesystem.ls(self.key, detail=True)
            except FileNotFoundError as error:
                if _is_about_bucket(error):
                    raise
                return {}
        kinds: dict[str, Kind] = {"directory": "folder", "file": "file"}
        return {
            each["name"].rstrip("/").rpartition("/")[2]: kinds[each["type"]]
            for each in found
            if each["type"] in kinds
        }

    def sizes_below(self) -> dict[str, int]:
        """Return the sizes of all objects below this folder, by their names in it."""
        with object_errors(f"cannot read {self}"):
            found = self.filesystem.find(self.key, detail=True)
        start = f"{self.key}/"
        return {
            name[len(start) :]: int(each["size"])
            for name, each in found.items()
            if name.startswith(start)
        }

    def read_beginnings(self, names: Sequence[str], bytes_max: int) -> list[bytes | StoreError]:
        """Return the first bytes of several objects below this folder, in one batch of requests."""
        keys = [f"{self.key}/{name}" for name in names]
        with object_errors(f"cannot read {self}"):
            found = self.filesystem.cat_ranges(
                keys, [0] * len(keys), [bytes_max] * len(keys), on_error="return"
            )
        return [
            bytes(each)
            if not isinstance(each, BaseException)
            else _store_error(f"cannot read {self}/{name}", each)
            for name, each in zip(names, found, strict=True)
        ]

    def open(self) -> Any:
        """Return the object opened for reading, without a cache.

        A read of an object of S3 fails if it was replaced since.
        """
        with object_errors(f"cannot read {self}"):
            return self.filesystem.open(self.key, "rb", cache_type="none")

    def download(self, path: Path) -> None:
        """Write the object to a file of this machine."""
        with object_errors(f"cannot read {self}"):
            self.filesystem.get_file(self.key, str(path))

    def remove(self) -> None:
        """Delete the object; one that does not exist is no error."""
        with object_errors(f"cannot write to {self}"):
            try:
                self.filesystem.rm_file(self.key)
            except FileNotFoundError:
                return

    def upload(self, path: Path) -> None:
        """Send a file, in place of any object: it appears once all of it has arrived."""
        with object_errors(f"cannot write to {self}"):
            self._make_folder()
            self.filesystem.put_file(str(path), self.key)

    def upload_in_place_of(self, path: Path, replaced: ObjectVersion | None) -> None:
        """Send a file in place of the given content, or where no object is.

        Raise ReplacedMeanwhileError if there is another by now. S3 compares in the same step as it
        writes; elsewhere, and for a file of 100 MB or more that replaces another, the comparison
        comes just before.
        """
        if self.version() != replaced:
            raise self._replaced()
        with object_errors(f"cannot write to {self}"):
            self._make_folder()
            try:
                self._put_if(path, replaced)
            except FileExistsError:
                raise self._replaced() from None
            except OSError as error:
                if error.errno == errno.EINVAL and "pre-condition" in str(error):
                    raise self._replaced() from None
                if error.errno != errno.ENOSYS:
                    raise
                # The store knows no conditions.
                self.filesystem.put_file(str(path), self.key)

    def _put_if(self, path: Path, replaced: ObjectVersion | None) -> None:
        condition: Mapping[str, str] = {}
        # Some file systems, and those of fsspec before 2024.12, have no such mode.
        if replaced is None and "mode" in signature(self.filesystem.put_file).parameters:
            condition = {"mode": "create"}
        elif (
            replaced is not None
            and self.is_s3
            and replaced.etag
            and path.stat().st_size < _ONE_REQUEST_BYTES
        ):
            condition = {"IfMatch": replaced.etag}
        self.filesystem.put_file(str(path), self.key, **condition)

    @property
    def is_s3(self) -> bool:
        """Whether reads and writes can be made conditional on the content that is there."""
        protocol = self.filesystem.protocol
        return "s3" in ([protocol] if isinstance(protocol, str) else protocol)

    def _make_folder(self) -> None:
        # Not in S3, whose folders are parts of names: it would try to create the bucket.
        if not self.is_s3:
            self.filesystem.makedirs(self.key.rpartition("/")[0], exist_ok=True)

    def _replaced(self) -> ReplacedMeanwhileError:
        return ReplacedMeanwhileError(f"cannot write to {self}: another process wrote it meanwhile")


@contextmanager
def object_errors(doing: str) -> Iterator[None]:
    """Raise StoreError in place of any error of an object store, as `cannot read URL: why`."""
    try:
        yield
    except (TokentapeError, FileExistsError):
        raise
    except Exception as error:
        raise _store_error(doing, error) from error


def _store_error(doing: str, error: BaseException) -> StoreError:
    if isinstance(error, PermissionError):
        said = error.strerror or describe_damage(error)
        return StoreError(f"{doing}: access is denied ({said}): check the credentials")
    if isinstance(error, FileNotFoundError):
        if _is_about_bucket(error):
            return StoreError(f"{doing}: the bucket does not exist")
        return MissingObjectError(f"{doing}: it does not exist")
    if isinstance(error, OSError) and error.errno == errno.EINVAL and "pre-condition" in str(error):
        return StoreError(f"{doing}: another process replaced it meanwhile")
    if type(error).__name__ == "FileExpired":
        return StoreError(f"{doing}: another process replaced it meanwhile")
    return StoreError(f"{doing}: {describe_damage(error)}")


def _is_about_bucket(error: BaseException) -> bool:
    """Return whether a bucket is missing, and not only an object in it."""
    return "bucket does not exist" in str(error)


def _missing_library(error: ImportError) -> str:
    """Return what to install, as the end of a sentence."""
    text = " ".join(str(error).split())
    for library, extra in _EXTRAS.items():
        if library in text:
            return f"needs {library}: pip install 'tokentape[{extra}]'"
    return f"needs a library that is not installed: {text}"
