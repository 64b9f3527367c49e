"""The files of sealed runs in a folder of an object store."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyarrow as pa

from tokentape.store.errors import NewerStoreError, StoreError
from tokentape.store.objects.object_path import ObjectPath
from tokentape.store.objects.range_file import WHOLE_BYTES, RangeFile
from tokentape.store.sealed.layout import (
    SCHEMA_VERSION,
    TABLES,
    newest_schema,
    part_name,
    run_id_of,
)
from tokentape.store.sealed.run_file import SealedRun

_LISTED_FOLDERS_MAX = 8
"""The folders of more runs are listed together: a request returns 1,000 names."""
_AT_ONCE = 32
"""How many objects are asked for at the same time: 32 MiB at most."""


class ObjectFiles:
    """The files of sealed runs in an object store; see `sealed_files.SealedFiles`.

    Small objects are read completely, several at a time, large ones in the ranges that are needed.
    """

    def __init__(self, path: ObjectPath) -> None:
        self.where = str(path)
        self._path = path
        self._bytes: dict[str, int] = {}
        self._listed: dict[str, int] = {}

    def check_schema(self) -> None:
        """Raise StoreError for a folder without sealed runs, NewerStoreError for a newer schema."""
        schema = newest_schema(self._path.joined("runs").entries())
        if not schema:
            raise StoreError(f"{self.where} holds no sealed runs: it has no folder `runs`")
        if schema > SCHEMA_VERSION:
            raise NewerStoreError(f"{self.where} holds schema={schema}: upgrade tokentape")

    def run_files(self) -> dict[str, str]:
        folder = f"runs/schema={SCHEMA_VERSION}"
        names = (f"{folder}/{each}" for each in self._path.joined(folder).sizes_below())
        found = {run_id_of(name): name for name in names}
        return {run_id: found[run_id] for run_id in sorted(id_ for id_ in found if id_ is not None)}

    def source(self, name: str) -> Any:
        return self.sources([name])(name)

    def sources(self, names: Iterable[str]) -> Callable[[str], Any]:
        return _ReadAhead(self._path, list(names), self._bytes, self._listed)

    def size(self, name: str) -> int:
        return self._path.joined(name).size()

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        folders = {name.rpartition("/")[0] for name in names}
        if len(folders) > _LISTED_FOLDERS_MAX:
            folders = {folder.rpartition("/")[0] for folder in folders}
        for folder in sorted(folders):
            below = self._path.joined(folder).sizes_below()
            found |= {f"{folder}/{each}": size for each, size in below.items()}
        sizes = {name: found[name] for name in names if name in found}
        self._listed |= sizes
        return sizes

    def exists(self, name: str) -> bool:
        return self._path.joined(name).kind() == "file"

    def stored_bytes(self, name: str) -> int:
        if name not in self._bytes:
            self._bytes[name] = self.size(name)
        return self._bytes[name]

    def sha256(self, name: str) -> str:
        return self._path.joined(name).sha256()

    def files_of(self, run_id: str) -> list[str]:
        folders = [part_name(table, run_id).rpartition("/")[0] for table in ("runs", *TABLES)]
        return sorted(
            f"{folder}/{each}"
            for folder in folders
            for each in self._path.joined(folder).sizes_below()
        )

    def at_rest(self) -> AbstractContextManager[bool]:
        """Return False: no lock tells whether a writer is at work."""
        return nullcontext(False)

    def faults(self, run: SealedRun) -> list[str]:
        return []

    def close(self) -> None:
        """Do nothing: no file stays open."""


class _ReadAhead:
    """Sources of files, each requested once, in the order of their names."""

    def __init__(
        self, path: ObjectPath, names: list[str], sizes: dict[str, int], listed: dict[str, int]
    ) -> None:
        self._path, self._names, self._sizes, self._listed = path, names, sizes, listed
        self._places = {name: place for place, name in enumerate(names)}
        self._found: dict[str, bytes | StoreError] = {}
        self._asked: set[str] = set()

    def __call__(self, name: str) -> Any:
        """Return a buffer with the whole file, or an open one that is read in ranges.

        Raise StoreError if it was replaced since its size was compared with that which was sealed.
        """
        if name not in self._found:
            place = None if name in self._asked else self._places.get(name)
            names = [name] if place is None else self._names[place : place + _AT_ONCE]
            read = self._path.read_beginnings(names, WHOLE_BYTES)
            self._found = dict(zip(names, read, strict=True))
        self._asked.add(name)
        content = self._found.pop(name)
        if isinstance(content, StoreError):
            raise content
        file = RangeFile(self._path.joined(name)) if len(content) >= WHOLE_BYTES else None
        size = len(content) if file is None else file.bytes
        if self._listed.get(name, size) != size:
            raise StoreError(f"cannot read {self._path}/{name}: it was replaced meanwhile")
        self._sizes[name] = size
        return pa.py_buffer(content) if file is None else file
