"""Runs as JSON Lines: readable by any program, and importable.

Each line is a record, in order: `run_id`, `seq`, `at` (ISO 8601, UTC, microseconds), `kind`,
`version`, `turn`, `seal`, `body`. The body is an object, or a string if it is not canonical JSON
and would not come back as the same bytes. A payload is a line of `run_id`, `sha256` and `payload`
(base64) before the first record that names it. Attachments follow the records of their run: lines
of `run_id`, `at`, `replay`, `verdict` and `report`, or of `run_id`, `at`, `version` and `floor`.
"""

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Self, overload

from tokentape.recorder import Record, Recording
from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.codec import dump_canonical
from tokentape.recorder.damage import DECODING_ERRORS, reporting_damage
from tokentape.recorder.events import TOKEN_KIND
from tokentape.recorder.foreign_files import BYTE_ORDER_MARK, FORMATS, foreign_file
from tokentape.recorder.limits import TooLargeError, expanded_bytes_max, load_json, oversize
from tokentape.recorder.projections import RunSummary, summarise_all
from tokentape.recorder.regular_file import check_not_special, open_regular
from tokentape.store.attachments import (
    BODIES,
    Attachment,
    K,
    StoredFloor,
    StoredLabel,
    StoredVerdict,
)
from tokentape.store.errors import NoSuchRunError, StoreError
from tokentape.store.objects.object_path import ObjectPath
from tokentape.store.objects.range_file import RangeFile
from tokentape.store.objects.staging import staging_folder
from tokentape.store.objects.urls import file_location
from tokentape.store.payloads import payload_of
from tokentape.store.source import Attachments, attachments_of, with_parents

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@overload
def export_jsonl(recordings: Iterable[Recording], attached: Attachments, path: Path) -> Path: ...
@overload
def export_jsonl(
    recordings: Iterable[Recording], attached: Attachments, path: str
) -> Path | str: ...
def export_jsonl(
    recordings: Iterable[Recording], attached: Attachments, path: Path | str
) -> Path | str:
    """Write runs and their attachments to a JSON Lines file, and return its path.

    The path may be the URL of a file in an object store; then the URL is returned.

    `attached` supplies the payloads, verdicts and floors; usually it is the store of the runs. The
    ancestors of a fork are included. An earlier export at that path is replaced atomically. Raise
    StoreError if the path has any other file, if it cannot be written, or if a payload is missing.

    Example:
        >>> import tokentape as tt
        >>> path = tt.export_jsonl([store.recording(run_id)], store, tmp_path / "run.jsonl")
        >>> path.read_text().count('"kind":"TurnStarted"')
        3
    """
    place = file_location(path)
    try:
        if not isinstance(place, Path):
            _export_object(recordings, attached, ObjectPath.connect(place))
            return place.text
        check_not_special(place)
        if place.exists():
            with place.open("rb") as there:
                _check_replaceable(there, place)
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(place, durable=True) as tmp_path:
            _write(recordings, attached, tmp_path)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot write {place}: {error}") from None
    return place


def _export_object(
    recordings: Iterable[Recording], attached: Attachments, path: ObjectPath
) -> None:
    """Write the lines on this machine, and send them in one piece."""
    replaced = path.check_replaceable()
    if replaced is not None:
        with io.BufferedReader(RangeFile(path)) as there:
            _check_replaceable(there, path)
    with staging_folder() as made:
        _write(recordings, attached, made / "lines")
        path.upload_in_place_of(made / "lines", replaced)


def _write(recordings: Iterable[Recording], attached: Attachments, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for recording in with_parents(recordings):
            file.writelines(_lines(recording, attached))


def _check_replaceable(file: "io.BufferedReader[Any]", path: Path | ObjectPath) -> None:
    # A binary file may have no end of line: read one only after a brace.
    line = file.readline() if file.peek(1)[:1] == b"{" else file.read(1)
    try:
        if line:
            _parsed(line, str(path))
    except StoreError:
        raise StoreError(
            f"{path} exists and is not an export of runs: move it away, or choose another name"
        ) from None


def _lines(recording: Recording, attached: Attachments) -> Iterator[str]:
    written: set[str] = set()
    for record in recording.records():
        sha256 = payload_of(record)
        if sha256 and sha256 not in written:
            written.add(sha256)
            payload = base64.b64encode(attached.blob(sha256)).decode()
            yield _line({"run_id": recording.run_id, "sha256": sha256, "payload": payload})
        yield _line({"run_id": recording.run_id} | _described(record))
    for attachment in attachments_of(attached, recording.run_id):
        fields = asdict(attachment)
        yield _line({"run_id": fields.pop("run_id"), "at": _time(fields.pop("at_us"))} | fields)


def _line(value: Mapping[str, Any]) -> str:
    # ASCII, because some readers end a line at U+2028.
    return json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n"


def _time(at_us: int) -> str:
    with reporting_damage(lambda why: StoreError(f"a time of {at_us} µs is no date: {why}")):
        at = _EPOCH + at_us * _MICROSECOND
    return at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _at_us(time: str) -> int:
    return (datetime.fromisoformat(time) - _EPOCH) // _MICROSECOND


def _described(record: Record) -> dict[str, Any]:
    return {
        "seq": record.seq,
        "at": _time(record.at_us),
        "kind": record.kind,
        "version": record.version,
        "turn": record.turn,
        "seal": record.seal,
        "body": _body(record),
    }


def _body(record: Record) -> Any:
    if not isinstance(record.body, str):
        return dict(record.body)
    try:
        body = json.loads(record.body)
        return body if dump_canonical(body) == record.body else record.body
    except DECODING_ERRORS:
        return record.body


class JsonlFile:
    """The runs in a file that `export_jsonl` wrote.

    Other programs may have rewritten the lines: a byte order mark, blank lines and CRLF are
    accepted. The file is read once to find the lines of each run; after that, reading a run reads
    only its own lines.

    Raise StoreError with the number of the line for any other file.
    """

    def __init__(self, path: Path, where: str = "") -> None:
        self.where = where or str(path)
        self._path = path
        self._stretches: dict[str, list[tuple[int, int]]] = {}
        self._blob_offsets: dict[str, int] = {}
        self._attachment_offsets: dict[tuple[str, type[Attachment]], list[int]] = {}
        fault = foreign_file(path)
        if fault:
            raise StoreError(f"{self.where} {fault}")
        last_run_id = None
        for start, end, line in self._read():
            run_id = line["run_id"]
            stretches = self._stretches.setdefault(run_id, [])
            if run_id == last_run_id:
                start_of_stretch, _ = stretches.pop()
                stretches.append((start_of_stretch, end))
            else:
                stretches.append((start, end))
            last_run_id = run_id
            if "payload" in line:
                self._blob_offsets[line["sha256"]] = start
            kind = _attachment_kind(line)
            if kind is not None:
                self._attachment_offsets.setdefault((run_id, kind), []).append(start)
        if last_run_id is None:
            raise StoreError(f"{self.where} is empty: all its lines are blank")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no file stays open."""

    def recordings(self) -> list[Recording]:
        return [self.recording(run_id) for run_id in self._stretches]

    def recording(self, run_id: str) -> Recording:
        """Return the run with exactly that id. Raise NoSuchRunError for an unknown one."""
        if run_id not in self._stretches:
            raise NoSuchRunError(f"{self.where} has no run {run_id!r}")
        return Recording(
            run_id, lambda: self._records(run_id), self.where, self.blob, self.recording
        )

    def summary(self, run_id: str) -> RunSummary | None:
        """Return the summary of a run, folded from its events: no line holds one."""
        return summarise_all(self.recording(run_id).own_events())

    def verify_files(self, run_id: str) -> list[str]:
        """Return no faults: a file of lines has no list of its contents."""
        return []

    def blob(self, sha256: str) -> bytes:
        """See `tokentape.store.source.Attachments`."""
        if sha256 not in self._blob_offsets:
            raise StoreError(f"{self.where} has no blob {sha256}")
        with self._reading(lambda why: f"cannot read blob {sha256} of {self.where}: {why}"):
            line = self._line_at(self._blob_offsets[sha256])
            payload = base64.b64decode(line["payload"], validate=True)
        if hashlib.sha256(payload).hexdigest() != sha256:
            raise StoreError(f"{self.where}: blob {sha256} was altered after the export")
        return payload

    def verdicts(self, run_id: str) -> list[StoredVerdict]:
        """See `tokentape.store.source.Attachments`."""
        return self._attachments(StoredVerdict, run_id)

    def floors(self, run_id: str) -> list[StoredFloor]:
        """See `tokentape.store.source.Attachments`."""
        return self._attachments(StoredFloor, run_id)

    def labels(self, run_id: str) -> list[StoredLabel]:
        """See `tokentape.store.source.Attachments`."""
        return self._attachments(StoredLabel, run_id)

    def _attachments(self, kind: type[K], run_id: str) -> list[K]:
        found = []
        for offset in self._attachment_offsets.get((run_id, kind), ()):
            with self._reading(_at_byte(self.where, offset)):
                line = self._line_at(offset)
                at_us = _at_us(line.pop("at"))
                found.append(kind(at_us=at_us, **line))
        return found

    def _reading(self, describe: Callable[[str], str]) -> reporting_damage:
        """Return a context manager that raises StoreError for what a damaged line raises."""
        errors: tuple[type[Exception], ...] = (OSError, StoreError, *DECODING_ERRORS)
        return reporting_damage(lambda why: StoreError(describe(why)), errors)

    def _line_at(self, offset: int) -> dict[str, Any]:
        with open_regular(self._path) as file:
            file.seek(offset)
            return dict(parse_line(file.readline()))

    def _records(self, run_id: str) -> Iterator[Record]:
        for start, end in self._stretches.get(run_id, ()):
            for offset, _, line in self._read(start, end):
                if "payload" in line or _attachment_kind(line) is not None:
                    continue
                with self._reading(_at_byte(self.where, offset, "record")):
                    record = _record(line)
                yield record

    def _read(
        self, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield each line that is not blank, with its first byte and the one after its last."""
        try:
            with open_regular(self._path) as file:
                file.seek(start)
                for number, text in enumerate(lines_of(file, self.where), start=1):
                    after = start + len(text)
                    if text.strip():
                        place = f"line {number}" if end is None else f"the line at byte {start}"
                        yield start, after, _parsed(text, f"{self.where}, {place}")
                    start = after
                    if start == end:
                        return
        except OSError as error:
            raise StoreError(f"cannot read {self.where}: {error.strerror}") from None


def lines_of(file: BinaryIO, where: str) -> Iterator[bytes]:
    """Yield the lines of a file. Raise StoreError for one that is too long to be read."""
    line_bytes_max = expanded_bytes_max(0)
    while line := file.readline(line_bytes_max + 1):
        fault = oversize("a line", len(line), line_bytes_max)
        if fault:
            raise StoreError(f"{where}: {fault}")
        yield line


def _at_byte(where: str, offset: int, what: str = "line") -> Callable[[str], str]:
    """Return a function that says where a damaged line is, and why it is damaged."""
    return lambda why: f"{where}: the {what} at byte {offset} is damaged: {why}"


def parse_line(text: bytes) -> Any:
    """Return the value of a line. Raise ValueError if it is not JSON in UTF-8."""
    return load_json(text.removeprefix(BYTE_ORDER_MARK).decode())


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """Return the object of a line. Raise StoreError unless it is a record, or part of a run."""
    with (
        reporting_damage(lambda _: StoreError(f"{where} {_fault_of(text)}")),
        reporting_damage(lambda why: StoreError(f"{where} is too long: {why}"), (TooLargeError,)),
    ):
        line = parse_line(text)
        is_ours = isinstance(line["run_id"], str) and (
            "seq" in line or _attachment_kind(line) is not None
        )
        if "payload" in line:
            is_ours = isinstance(line["run_id"], str) and isinstance(line["sha256"], str)
        if not is_ours:
            raise ValueError("it is none of the lines of an export")
        return dict(line)


def _fault_of(text: bytes) -> str:
    """Return why a line is not a record, as far as it shows."""
    for magic, kind in FORMATS.items():
        if text.startswith(magic) and not text.startswith(b"{"):
            return f"is not a record of a run: the file is {kind}"
    if text.strip() in (b"{", b"[") or text.startswith((b"[{", b"[ {")):
        return (
            "is not a record of a run: the file is JSON, but without a record on each line (jq "
            "writes such lines with -c, those of a list with -c '.[]')"
        )
    if text.startswith(b"{") and not text.rstrip().endswith(b"}"):
        return "is cut off: the file was not copied or written completely"
    try:
        text.decode()
    except UnicodeDecodeError:
        return "is not a record of a run: it is not text in UTF-8"
    return "is not a record of a run"


def _attachment_kind(line: Mapping[str, Any]) -> type[Attachment] | None:
    fields = {**BODIES, StoredLabel: "label"}
    return next((kind for kind, name in fields.items() if name in line), None)


def _record(line: Mapping[str, Any]) -> Record:
    body = line["body"]
    if line["kind"] == TOKEN_KIND:
        body = {name: tuple(v) if isinstance(v, list) else v for name, v in body.items()}
    elif not isinstance(body, str):
        body = dump_canonical(body)
    return Record(
        seq=int(line["seq"]),
        at_us=_at_us(line["at"]),
        kind=str(line["kind"]),
        version=int(line["version"]),
        body=body,
        turn=line["turn"],
        seal=line["seal"],
    )
