"""Sealing of runs into a folder of an object store.

Nothing is renamed there, and there are no locks. The object of `runs` commits a run: it is written
last, once all objects that it lists are there, and only in place of the one that was read before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokentape.store.errors import NewerStoreError, StoreError
from tokentape.store.objects.object_path import ObjectPath, ObjectVersion, ReplacedMeanwhileError
from tokentape.store.objects.staging import staging_folder
from tokentape.store.sealed.layout import SCHEMA_VERSION, newest_schema, part_name
from tokentape.store.sealed.object_files import ObjectFiles
from tokentape.store.sealed.parquet import TableFile
from tokentape.store.sealed.run_file import SealedRun, read_sealed_run

_ORDER = ("blobs", "verdicts", "floors", "run_labels", "events", "tokens")
"""Programs that read all files of a table see tokens last."""


class ObjectTarget:
    """A folder of an object store; see `SealTarget`.

    Files are written on this machine and sent by `publish`, which raises ReplacedMeanwhileError if
    another process has written the run since `sealed_before`.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._files = ObjectFiles(path)
        self._row_version: ObjectVersion | None = None

    @contextmanager
    def writing(self) -> Iterator[Path]:
        try:
            with staging_folder() as folder:
                yield folder
        except (pa.ArrowException, ValueError) as error:
            raise StoreError(f"cannot write to {self._path}: {error}") from None

    def prepare(self) -> None:
        if self._path.kind() == "file":
            raise StoreError(f"cannot write to {self._path}: it is a file, not a folder")

    def sealed_before(self, run_id: str) -> SealedRun | None:
        newest = newest_schema(self._path.joined("runs").entries())
        if newest > SCHEMA_VERSION:
            raise NewerStoreError(f"{self._path} holds schema={newest}: upgrade tokentape")
        name = part_name("runs", run_id)
        row = self._path.joined(name)
        self._row_version = row.version()
        if self._row_version is None:
            return None
        content = row.read()
        if row.version() != self._row_version:
            raise ReplacedMeanwhileError(f"{row} was replaced while it was read")
        try:
            run = read_sealed_run(pa.py_buffer(content), str(row))
        except StoreError:
            return None
        return run if run.run_id == run_id and self._is_whole(run) else None

    def _is_whole(self, run: SealedRun) -> bool:
        sizes = self._files.sizes([each.name for each in run.files])
        return all(sizes.get(each.name) == each.bytes for each in run.files)

    def source(self, name: str) -> Any:
        return self._files.source(name)

    def sha256(self, name: str) -> str:
        return self._files.sha256(name)

    def clear(self, run: SealedRun, kept: Sequence[Path]) -> None:
        listed = {part_name("runs", run.run_id), *(each.name for each in run.files)}
        for name in self._files.files_of(run.run_id):
            if name not in listed:
                self._path.joined(name).remove()

    def publish(
        self, run: SealedRun, parts: Sequence[TableFile], row: TableFile, *, replaces: bool
    ) -> list[str]:
        target = self._path.joined(row.name)
        if target.version() != self._row_version:
            raise ReplacedMeanwhileError(f"{target} was replaced meanwhile")
        if replaces and self._row_version is not None:
            target.remove()
            self._row_version = None
        self.clear(run, ())
        ordered = sorted(parts, key=lambda each: _ORDER.index(each.name.partition("/")[0]))
        for each in ordered:
            self._path.joined(each.name).upload(each.tmp_path)
        if not self._is_whole(run):
            raise ReplacedMeanwhileError(f"objects of run {run.run_id} were replaced meanwhile")
        target.upload_in_place_of(row.tmp_path, self._row_version)
        return [str(self._path.joined(each.name)) for each in (*ordered, row)]
