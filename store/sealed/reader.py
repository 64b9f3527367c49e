"""Reads of sealed runs, from a folder or a tape."""

import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial, reduce
from operator import and_, attrgetter
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack

import pyarrow as pa
import pyarrow.compute as pc

from tokentape.recorder import Record, Recording
from tokentape.recorder.projections import RunSummary
from tokentape.recorder.record import RecordFilter, SampledIds
from tokentape.recorder.short_forms import html_or_fault, short_repr
from tokentape.store.arrow import EVENTS, RUNS, TOKENS, VERDICTS, of_file
from tokentape.store.attachments import (
    BODIES,
    TABLES,
    K,
    StoredFloor,
    StoredLabel,
    StoredVerdict,
    attachment_of,
    row_of,
)
from tokentape.store.errors import StoreError
from tokentape.store.labels import Labels, fold_labels
from tokentape.store.objects.object_path import ObjectPath
from tokentape.store.run_conditions import RunConditions
from tokentape.store.run_names import find_run_id
from tokentape.store.run_search import select_runs
from tokentape.store.runs_table import runs_html
from tokentape.store.sealed.layout import part_name
from tokentape.store.sealed.opened_files import open_files
from tokentape.store.sealed.parquet import SCHEMAS, SealedFile, runs_row
from tokentape.store.sealed.records import (
    TOP_COLUMNS,
    condition_of,
    event_records,
    has_rows,
    records_of,
    token_records,
)
from tokentape.store.sealed.run_file import SealedRun, metadata_faults, read_sealed_run, reading
from tokentape.store.sealed.scan import iterate_records, scan
from tokentape.store.sealed.sealed_files import intact_parts, intact_parts_of
from tokentape.store.source import Selection

T = TypeVar("T")
_ENVELOPE = ("run_id", "seq", "at")


class ParquetStore:
    """Sealed runs in a folder or a tape, for reading; `open_store` returns one.

    Every method raises StoreError with the name of the file if one cannot be read.
    """

    def __init__(self, path: Path | ObjectPath) -> None:
        self.where = str(path)
        self._files = open_files(path)
        self._blob_files: dict[str, str] = {}
        self._newest_read = ""

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return short_repr(self, self.where)

    def _repr_html_(self) -> str:
        return html_or_fault(self, lambda: runs_html(self.where, self.summaries()))

    def summaries(self, **where: Unpack[RunConditions]) -> list[RunSummary]:
        """See `tokentape.store.source.Source`."""
        found = self._read(self._summaries)
        return select_runs(self, found, where) if where else found

    def _summaries(self) -> list[RunSummary]:
        found = (run.summary for run in self._sealed_runs(self._files.run_files()))
        known = (each for each in found if each is not None)
        return sorted(known, key=lambda each: (each.started_at_us, each.run_id))

    def _readable_summaries(self) -> list[RunSummary]:
        """Return the summaries of the runs that are not damaged, the oldest first."""
        try:
            return self.summaries()
        except StoreError:
            return []

    def summary(self, run_id: str) -> RunSummary | None:
        """See `tokentape.store.source.Source`."""
        return self._read(lambda: self.sealed_run(run_id).summary)

    def last_event_at_us(self, run_id: str) -> int:
        """See `tokentape.store.source.Source`: the last event that changed the summary."""
        summary = self.summary(run_id)
        return 0 if summary is None else summary.updated_at_us

    def recording(self, run_id: str) -> Recording:
        """See `tokentape.store.source.Source`."""
        matches = (each for each in self._files.run_files() if each.startswith(run_id))
        full_id = find_run_id(run_id, matches, self._readable_summaries, self.where)
        self._newest_read = full_id
        return Recording(
            full_id,
            lambda: self._records(full_id),
            self.where,
            self.blob,
            self.recording,
            lambda chosen: self._read(lambda: iter(list(self._selected_records(full_id, chosen)))),
            lambda after_seq, last_seq: self._read(
                lambda: self._sampled_ids(full_id, after_seq, last_seq)
            ),
            lambda: self.tokens_table(Selection(run_ids=(full_id,), columns=tuple(TOKENS.names))),
        )

    def sealed_run(self, run_id: str) -> SealedRun:
        """Return the sealed part of a run, with the list of its files. Raise StoreError."""
        (run,) = self._sealed_runs([run_id])
        return run

    def _sealed_runs(self, run_ids: Iterable[str]) -> Iterator[SealedRun]:
        names = {part_name("runs", run_id): run_id for run_id in run_ids}
        source_of = self._files.sources(names)
        return (self._sealed_run(run_id, name, source_of(name)) for name, run_id in names.items())

    def _sealed_run(self, run_id: str, name: str, source: Any) -> SealedRun:
        run = read_sealed_run(source, f"{self.where}/{name}")
        if run.run_id != run_id:
            raise StoreError(f"{self.where}/{name} belongs to another run, {run.run_id}")
        return run

    def blob(self, sha256: str) -> bytes:
        """See `tokentape.store.source.Attachments`."""
        return self._read(lambda: self._blob(sha256))

    def _blob(self, sha256: str) -> bytes:
        if sha256 not in self._blob_files:
            self._find_blobs(sha256)
        # Put back below: if it can no longer be read there, the next call searches again.
        name = self._blob_files.pop(sha256)
        found = self._scan("blobs", {"": [name]}, ["payload"], pc.field("sha256") == sha256)
        payloads = [bytes(each) for each in found["payload"].to_pylist()]
        if not payloads or hashlib.sha256(payloads[0]).hexdigest() != sha256:
            raise StoreError(f"{self.where}: blob {sha256} was altered after it was sealed")
        self._blob_files[sha256] = name
        return payloads[0]

    def events_table(self, selection: Selection) -> pa.Table:
        """See `tokentape.store.source.Source`."""
        wanted = EVENTS.names if selection.columns is None else (*_ENVELOPE, *selection.columns)
        columns = [name for name in EVENTS.names if name in wanted]
        return self._select("events", selection, columns, selection.kinds)

    def tokens_table(self, selection: Selection) -> pa.Table:
        """See `tokentape.store.source.Source`."""
        wanted = selection.columns
        if wanted is None:
            wanted = tuple(name for name in TOKENS.names if name not in TOP_COLUMNS)
        columns = [name for name in TOKENS.names if name in (*_ENVELOPE, *wanted)]
        return self._select("tokens", selection, columns)

    def verdicts(self, run_id: str) -> list[StoredVerdict]:
        """See `tokentape.store.source.Attachments`."""
        return self._read(lambda: self._attachments(StoredVerdict, run_id))

    def floors(self, run_id: str) -> list[StoredFloor]:
        """See `tokentape.store.source.Attachments`."""
        return self._read(lambda: self._attachments(StoredFloor, run_id))

    def labels(self, run_id: str) -> list[StoredLabel]:
        """See `tokentape.store.source.Attachments`."""
        return self._read(lambda: self._attachments(StoredLabel, run_id))

    def labels_by_run(self) -> dict[str, Labels]:
        """See `tokentape.store.source.Source`."""
        found: list[StoredLabel] = []
        names = self._files.run_files()
        source_of = self._files.sources(names.values())

        def labels_of(run_id: str, name: str) -> list[StoredLabel]:
            run = self._sealed_run(run_id, name, source_of(name))
            return self._attachments_of(StoredLabel, run)

        for each in names.items():
            with suppress(StoreError):
                found += self._read(partial(labels_of, *each))
        return fold_labels(found)

    def _attachments(self, kind: type[K], run_id: str) -> list[K]:
        if not self._files.exists(part_name("runs", run_id)):
            return []
        return self._attachments_of(kind, self.sealed_run(run_id))

    def _attachments_of(self, kind: type[K], run: SealedRun) -> list[K]:
        table = TABLES[kind]
        names = intact_parts(self._files, run, table)
        rows = self._scan(table, {run.run_id: names}, of_file(SCHEMAS[table]).names)
        texts = rows.set_column(rows.column_names.index("at"), "at_us", rows["at"].cast(pa.int64()))
        found = [attachment_of(kind, run.run_id, row, self.where) for row in texts.to_pylist()]
        return sorted(found, key=lambda each: (each.at_us, row_of(each)["sha256"]))

    def verdicts_table(self, selection: Selection) -> pa.Table:
        """See `tokentape.store.source.Source`."""
        wanted = VERDICTS.names if selection.columns is None else selection.columns
        columns = [name for name in VERDICTS.names if name in ("run_id", "at", *wanted)]
        columns = [name for name in columns if name not in ("sha256", BODIES[StoredVerdict])]
        chosen = Selection(run_ids=selection.run_ids)
        found = self._select("verdicts", chosen, [*columns, "sha256"])
        order = ("run_id", "at", "sha256")
        keys = found.select(order).set_column(0, "run_id", found["run_id"].cast(pa.string()))
        places = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in order])
        return found.take(places).select(columns)

    def verify_files(self, run_id: str) -> list[str]:
        """See `tokentape.store.source.Source`: compare every file with its listed size and sha256.

        Faults are looked for twice, since files may be replaced during the first time.
        """
        return self._faults(run_id) and self._faults(run_id)

    def _faults(self, run_id: str) -> list[str]:
        name = part_name("runs", run_id)
        try:
            with reading(self.where):
                return list(dict.fromkeys(self._faults_in(run_id, name)))
        except StoreError as error:
            return [str(error)]

    def _faults_in(self, run_id: str, name: str) -> list[str]:
        with self._files.at_rest() as at_rest:
            run = self.sealed_run(run_id)
            row_fault = self._row_fault(run, name)
            there = self._files.files_of(run_id) if at_rest else []
        found = [*self._files.faults(run), *filter(None, [row_fault])]
        found += (fault for each in run.files if (fault := self._fault_of(each)))
        listed = {name, *(each.name for each in run.files)}
        found += (
            f"{self.where}/{each} is not listed: an interrupted export left it"
            for each in there
            if each not in listed
        )
        if not found:
            faults = metadata_faults(run, self._records_of(run))
            found += (f"{self.where}/{name}: {fault}" for fault in faults)
        return found

    def _row_fault(self, run: SealedRun, name: str) -> str:
        try:
            rows = self._scan("runs", {run.run_id: [name]}, of_file(RUNS).names).to_pylist()
            if run.summary is not None and rows == runs_row(run.summary).to_pylist():
                return ""
            replaced = self.sealed_run(run.run_id)
        except StoreError as error:
            return str(error)
        if replaced != run:
            # A writer replaced the file after its metadata was read.
            return self._row_fault(replaced, name)
        return f"{self.where}/{name} contradicts itself: row and metadata differ"

    def _fault_of(self, file: SealedFile) -> str:
        try:
            sha256 = self._files.sha256(file.name)
        except StoreError as error:
            return str(error)
        if sha256 != file.sha256:
            return f"{self.where}/{file.name} was altered after it was sealed: its sha256 differs"
        return ""

    def _find_blobs(self, sha256: str) -> None:
        """Note the files of payloads up to the wanted one. Raise StoreError if it is in none.

        Payloads of other runs are found even if one run is damaged.
        """
        complaint = StoreError(f"{self.where} has no blob {sha256}")
        # Most payloads are asked for with their run.
        for run_id in sorted(self._files.run_files(), key=lambda each: each != self._newest_read):
            try:
                for name in intact_parts(self._files, self.sealed_run(run_id), "blobs"):
                    sums = self._scan("blobs", {run_id: [name]}, ["sha256"])["sha256"]
                    self._blob_files |= dict.fromkeys(sums.to_pylist(), name)
            except StoreError as error:
                complaint = error
            if sha256 in self._blob_files:
                return
        raise complaint

    def _select(
        self,
        table: str,
        selection: Selection,
        columns: Sequence[str],
        kinds: Sequence[str] | None = None,
    ) -> pa.Table:
        return self._read(lambda: self._select_once(table, selection, columns, kinds))

    def _select_once(
        self,
        table: str,
        selection: Selection,
        columns: Sequence[str],
        kinds: Sequence[str] | None,
    ) -> pa.Table:
        wanted = self._files.run_files()
        if selection.run_ids is not None:
            wanted = {run_id: wanted[run_id] for run_id in wanted if run_id in selection.run_ids}
        files = intact_parts_of(self._files, self._sealed_runs(wanted), table)
        conditions = {"turn": selection.turns, "kind": kinds}
        filters = [
            pc.field(name).isin(each) for name, each in conditions.items() if each is not None
        ]
        if selection.after_seq is not None:
            filters.append(pc.field("seq") > selection.after_seq)
        filter_ = reduce(and_, filters) if filters else None
        return self._scan(table, files, columns, filter_, selection.after_seq or -1)

    def _scan(
        self,
        table: str,
        files: Mapping[str, Sequence[str]],
        columns: Sequence[str],
        filter_: pc.Expression | None = None,
        after_seq: int = -1,
    ) -> pa.Table:
        """See `tokentape.store.sealed.scan.scan`."""
        return scan(self._files, table, files, columns, filter_, after_seq)

    def _records(self, run_id: str) -> Iterator[Record]:
        """Yield the records of a run, also if its files are replaced meanwhile.

        Reading continues in the new files if they contain the record that was read last.
        """
        run = self._read(lambda: self.sealed_run(run_id))
        last: Record | None = None
        try:
            with reading(self.where):
                for last in self._records_of(run):
                    yield last
        except StoreError:
            with reading(self.where):
                run = self.sealed_run(run_id)
                again = self._records_of(run)
                if last is not None and last not in again:
                    raise
                yield from again

    def _records_of(self, run: SealedRun) -> Iterator[Record]:
        events = iterate_records(
            self._files, intact_parts(self._files, run, "events"), event_records
        )
        tokens = iterate_records(
            self._files, intact_parts(self._files, run, "tokens"), token_records
        )
        return heapq.merge(events, tokens, key=attrgetter("seq"))

    def _selected_records(self, run_id: str, chosen: RecordFilter) -> Iterator[Record]:
        run = self.sealed_run(run_id)
        tables = [name for name in ("events", "tokens") if has_rows(name, chosen)]
        rows = [
            self._scan(
                name,
                {run_id: intact_parts(self._files, run, name)},
                of_file(SCHEMAS[name]).names,
                condition_of(name, chosen),
                chosen.after_seq,
            )
            for name in tables
        ]
        return records_of(dict(zip(tables, rows, strict=True)), chosen.newest)

    def _sampled_ids(self, run_id: str, after_seq: int, last_seq: int | None) -> SampledIds:
        files = {run_id: intact_parts(self._files, self.sealed_run(run_id), "tokens")}
        chosen = RecordFilter(after_seq=after_seq, last_seq=last_seq)
        condition = condition_of("tokens", chosen)
        found = self._scan("tokens", files, ["seq", "token_id"], condition, after_seq)
        return SampledIds(found["seq"].to_pylist(), found["token_id"].to_pylist())

    def _read(self, read: Callable[[], T]) -> T:
        """Return the result of `read`, tried again after a failure: files may have been replaced.

        All that is read comes through here or through `_records`.
        """
        try:
            with reading(self.where):
                return read()
        except StoreError:
            with reading(self.where):
                return read()
