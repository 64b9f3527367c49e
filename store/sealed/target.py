"""Where runs are sealed to: the interface, and folders of this machine."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from tokentape.recorder.foreign_files import pointer_file
from tokentape.recorder.leftovers import FILE_PREFIX, remove_leftovers
from tokentape.store.errors import NewerStoreError, StoreError
from tokentape.store.sealed.layout import SCHEMA_VERSION, TABLES, newest_schema, part_name
from tokentape.store.sealed.locks import locked
from tokentape.store.sealed.parquet import TableFile
from tokentape.store.sealed.run_file import UNREADABLE, SealedRun, read_sealed_run


class SealTarget(Protocol):
    """A folder that runs are sealed into, on this machine or in an object store."""

    def writing(self) -> AbstractContextManager[Path]:
        """Yield the folder to write files to before `publish`; keep other writers out if possible.

        Raise StoreError where the target cannot be written to.
        """

    def prepare(self) -> None:
        """Remove what killed writers left of any run. Raise StoreError where a file is in the way.

        `clear` does so for one run.
        """

    def sealed_before(self, run_id: str) -> SealedRun | None:
        """Return the sealed part of a run; None if it is missing or incomplete.

        Raise StoreError if it cannot be told, NewerStoreError for a newer schema.
        """

    def source(self, name: str) -> Any:
        """Return a source that pyarrow can read a file from."""

    def sha256(self, name: str) -> str:
        """Return the sum of the file's bytes."""

    def clear(self, run: SealedRun, kept: Sequence[Path]) -> None:
        """Remove the files of a run that it does not list, but for those of `kept`."""

    def publish(
        self, run: SealedRun, parts: Sequence[TableFile], row: TableFile, *, replaces: bool
    ) -> list[Any]:
        """Make finished files visible, `row` last, and return their paths or URLs.

        With `replaces`, the run that is there is removed first.
        """


class FolderTarget:
    """A folder of this machine; see `SealTarget`. One process at a time writes to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def writing(self) -> Iterator[Path]:
        folder = self._folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                yield folder
        except (OSError, pa.ArrowException, ValueError) as error:
            raise StoreError(f"cannot write to {folder}: {error}") from None

    def prepare(self) -> None:
        remove_leftovers(self._folder, self._folder.glob(f"*/*/*/{FILE_PREFIX}*"))

    def sealed_before(self, run_id: str) -> SealedRun | None:
        folder = self._folder
        if (folder / "runs").is_dir():
            newest = newest_schema(each.name for each in (folder / "runs").iterdir())
            if newest > SCHEMA_VERSION:
                raise NewerStoreError(f"{folder} holds schema={newest}: upgrade tokentape")
        path = folder / part_name("runs", run_id)
        _check_no_pointers([path])
        try:
            run = read_sealed_run(path, str(path))
            _check_no_pointers(folder / each.name for each in run.files)
            whole = all((folder / each.name).stat().st_size == each.bytes for each in run.files)
            return run if whole and run.run_id == run_id else None
        except PointerFileError:
            raise
        except (StoreError, *UNREADABLE):
            return None

    def source(self, name: str) -> str:
        return str(self._folder / name)

    def sha256(self, name: str) -> str:
        with (self._folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def clear(self, run: SealedRun, kept: Sequence[Path]) -> None:
        row = self._folder / part_name("runs", run.run_id)
        listed = {row, *(self._folder / each.name for each in run.files), *kept}
        for table in (*TABLES, "runs"):
            for path in (self._folder / part_name(table, run.run_id)).parent.glob("*"):
                if path not in listed:
                    path.unlink()

    def publish(
        self, run: SealedRun, parts: Sequence[TableFile], row: TableFile, *, replaces: bool
    ) -> list[Path]:
        if replaces:
            row.path.unlink(missing_ok=True)
        # Before new files are renamed, so that a reader of all files sees no row twice.
        self.clear(run, [each.tmp_path for each in (*parts, row)])
        for each in (*parts, row):
            each.commit()
        return [each.path for each in (*parts, row)]


class PointerFileError(StoreError):
    """A sealed file is a pointer to its content, as of Git LFS: it is not damaged."""


def _check_no_pointers(paths: Iterable[Path]) -> None:
    for path in paths:
        fault = pointer_file(path)
        if fault:
            raise PointerFileError(f"cannot write to {path.parent}: {path.name} {fault}")
