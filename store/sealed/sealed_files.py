"""Access to the files of sealed runs: the interface, and folders."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from tokentape.store.errors import NewerStoreError, StoreError
from tokentape.store.sealed.layout import (
    SCHEMA_VERSION,
    TABLES,
    newest_schema,
    part_name,
    run_id_of,
)
from tokentape.store.sealed.locks import at_rest
from tokentape.store.sealed.run_file import SealedRun


class SealedFiles(Protocol):
    """The files of sealed runs, in a folder or a tape."""

    where: str

    def run_files(self) -> dict[str, str]:
        """The name of each sealed run's file of `runs`, by run id, in order."""

    def source(self, name: str) -> Any:
        """What pyarrow reads the file from. Raises StoreError where it cannot be had whole."""

    def content(self, name: str) -> bytes:
        """The file's bytes. Raises StoreError."""

    def size(self, name: str) -> int:
        """The file's size in bytes. Raises StoreError where there is none."""

    def files_of(self, run_id: str) -> list[str]:
        """The names of all files under the run's id, whatever they are."""

    def at_rest(self) -> AbstractContextManager[bool]:
        """Keep the files as they are; False where they are being written."""

    def faults(self, run: SealedRun) -> list[str]:
        """What is wrong with the run and its files as the place itself lists them, a line each."""

    def close(self) -> None:
        """Let go of what is held open."""


class Folder:
    """Raises StoreError for a folder without sealed runs, NewerStoreError for a newer schema."""

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
        return str(self._path / name)

    def content(self, name: str) -> bytes:
        path = self._path / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from None

    def size(self, name: str) -> int:
        path = self._path / name
        try:
            return path.stat().st_size
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from None

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
        """Nothing is held open."""
