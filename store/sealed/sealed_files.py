"""Access to the files of sealed runs: the interface, and folders."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from tokentape.recorder.foreign_files import foreign_file
from tokentape.recorder.regular_file import is_special, open_regular
from tokentape.store.errors import NewerStoreError, StoreError
from tokentape.store.sealed.layout import (
    SCHEMA_VERSION,
    TABLES,
    newest_schema,
    part_name,
    run_id_of,
)
from tokentape.store.sealed.locks import at_rest
from tokentape.store.sealed.run_file import SealedRun, cannot_read


class SealedFiles(Protocol):
    """The files of sealed runs, in a folder, a tape or an object store."""

    where: str
    """The path or URL, for messages."""

    def run_files(self) -> dict[str, str]:
        """Return the name of each run's file of `runs`, ordered by run id."""

    def source(self, name: str) -> Any:
        """Return a source that pyarrow can read the file from. Raise StoreError if unreadable."""

    def sources(self, names: Iterable[str]) -> Callable[[str], Any]:
        """Return `source` for files that will be read in this order; some may be read ahead."""

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""

    def size(self, name: str) -> int:
        """Return the file's size in bytes. Raise StoreError if it does not exist."""

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Return the sizes of files in bytes.

        One that does not exist is left out, or raises StoreError.
        """

    def stored_bytes(self, name: str) -> int:
        """Return the bytes of the file on disk, which limit the bytes of its content."""

    def sha256(self, name: str) -> str:
        """Return the sum of the file's bytes. Raise StoreError if it cannot be read."""

    def files_of(self, run_id: str) -> list[str]:
        """Return the names of all files in the run's folders, listed by the run or not."""

    def at_rest(self) -> AbstractContextManager[bool]:
        """Keep writers out; the context's value is False if one is writing already."""

    def faults(self, run: SealedRun) -> list[str]:
        """Return what contradicts a list of the files that is not the run's own, a line each."""

    def close(self) -> None:
        """Close open files."""


class Folder:
    """The files of sealed runs in a folder.

    Raise StoreError for a folder without sealed runs, NewerStoreError for a newer schema.
    """

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path
        try:
            schema = newest_schema(each.name for each in (path / "runs").iterdir())
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} holds no sealed runs: it has no folder `runs`") from error
        if schema > SCHEMA_VERSION:
            raise NewerStoreError(f"{path} holds schema={schema}: upgrade tokentape to read it")

    def run_files(self) -> dict[str, str]:
        folder = self._path / "runs" / f"schema={SCHEMA_VERSION}"
        names = (
            f"runs/{each.parent.parent.name}/{each.parent.name}/{each.name}"
            for each in sorted(folder.glob("run_id=*/part-00000.parquet"))
        )
        found = {run_id_of(name): name for name in names}
        return {run_id: found[run_id] for run_id in sorted(id_ for id_ in found if id_ is not None)}

    def source(self, name: str) -> str:
        return str(self._path_of(name))

    def sources(self, names: Iterable[str]) -> Callable[[str], str]:
        return self.source

    def exists(self, name: str) -> bool:
        return (self._path / name).exists()

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        return {name: self.size(name) for name in names}

    def size(self, name: str) -> int:
        path = self._path_of(name)
        try:
            return path.stat().st_size
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from None

    def stored_bytes(self, name: str) -> int:
        return self.size(name)

    def sha256(self, name: str) -> str:
        path = self._path_of(name)
        try:
            with open_regular(path) as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from None

    def _path_of(self, name: str) -> Path:
        """Return the path of a file. Raise StoreError if it leads out of the folder.

        A link of git-annex leads to an object of the repository, which may be outside.
        """
        path = self._path / name
        real = os.path.realpath(path)
        is_inside = real.startswith(os.path.join(os.path.realpath(self._path), ""))
        if not is_inside and "/annex/objects/" not in Path(real).as_posix():
            raise StoreError(f"{path} is a link out of the folder, to {real}: copy the file here")
        if is_special(path):
            raise StoreError(f"{path} {foreign_file(path)}")
        return path

    def files_of(self, run_id: str) -> list[str]:
        return sorted(
            each.relative_to(self._path).as_posix()
            for table in ("runs", *TABLES)
            for each in (self._path / part_name(table, run_id)).parent.glob("*")
        )

    def at_rest(self) -> AbstractContextManager[bool]:
        return at_rest(self._path)

    def faults(self, run: SealedRun) -> list[str]:
        return []

    def close(self) -> None:
        """Do nothing: no file stays open."""


def intact_parts(files: SealedFiles, run: SealedRun, table: str) -> list[str]:
    """Return the run's files of a table. Raise StoreError if one's size is not as listed."""
    return intact_parts_of(files, [run], table)[run.run_id]


def intact_parts_of(
    files: SealedFiles, runs: Iterable[SealedRun], table: str
) -> dict[str, list[str]]:
    """Return the files of a table by run. Raise StoreError if one's size is not as listed."""
    parts: dict[str, list[str]] = {}
    sealed: dict[str, int] = {}
    for run in runs:
        parts[run.run_id] = run.parts(table)
        sealed |= {each.name: each.bytes for each in run.files if each.name in parts[run.run_id]}
    found = files.sizes(list(sealed))
    for name, size in sealed.items():
        if found.get(name) != size:
            why = ValueError(f"it has {found.get(name, 'no')} bytes, but {size} were sealed")
            raise cannot_read(f"{files.where}/{name}", why)
    return parts
