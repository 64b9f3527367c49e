"""Tapes: the Parquet files of one or more runs and a manifest in one self-contained file.

A `.tape` is a zip file. Its members are `manifest.json` and the files that
`tokentape.store.sealed.layout` names, not compressed again. The manifest has the `format`, the
version of `tokentape`, under `runs` the id, last seal, number of events and fingerprints of every
run, and under `files` their sizes and sha256. The same runs give the same bytes.
"""

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokentape.recorder.damage import DECODING_ERRORS, reporting_damage
from tokentape.recorder.field_types import check_plain_types
from tokentape.recorder.foreign_files import (
    HEAD_BYTES,
    SQLITE,
    foreign_content,
    foreign_file,
    known_content,
    pointer_file,
)
from tokentape.recorder.limits import expanded_bytes_max, load_json, oversize
from tokentape.recorder.regular_file import check_not_special, is_special
from tokentape.store.errors import NewerStoreError, StoreError
from tokentape.store.objects.object_path import ObjectPath
from tokentape.store.objects.range_file import RangeFile
from tokentape.store.sealed.layout import (
    SCHEMA_VERSION,
    TABLES,
    folder_of_run,
    part_name,
    run_id_of,
)
from tokentape.store.sealed.parquet import SealedFile
from tokentape.store.sealed.run_file import SealedRun, cannot_read

FORMAT = 1
MANIFEST = "manifest.json"
_ZIP = b"PK\x03\x04"
_MANIFEST_BYTES_MIN = 1024**2
_UNREADABLE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    OSError,
    RuntimeError,
    *DECODING_ERRORS,
)
_MEMBER = re.compile(
    rf"(?:{'|'.join(('runs', *TABLES))})/schema={SCHEMA_VERSION}/run_id=[\w.~%-]*/part-\d+\.parquet"
    rf"|{re.escape(MANIFEST)}",
    re.ASCII,
)


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip file or has the suffix of a tape.

    Raise StoreError for a device or a pipe, whose first bytes can be read only once.
    """
    if is_special(path):
        raise StoreError(f"{path} {foreign_file(path)}")
    try:
        with path.open("rb") as file:
            return file.read(4) == _ZIP or path.suffix == ".tape"
    except OSError:
        return path.suffix == ".tape"


def is_zip_object(path: ObjectPath) -> bool:
    """Return whether an object is a zip file or has the suffix of a tape."""
    return path.key.endswith(".tape") or (path.size() > 0 and path.read(0, 4) == _ZIP)


def describe_run(run: SealedRun) -> dict[str, Any]:
    """Return what the manifest says of a run."""
    return {
        "run_id": run.run_id,
        "last_seal": run.last_seal,
        "events": run.events,
        "fingerprints": dict(run.fingerprints),
    }


class Tape:
    """The files in a tape; see `tokentape.store.sealed.sealed_files.SealedFiles`.

    Nothing is unpacked to disk; each file is read completely and checked against its CRC. Raise
    StoreError for a file that is not a complete tape, NewerStoreError for a newer format.
    """

    def __init__(self, path: Path | ObjectPath) -> None:
        self.where = str(path)
        self._last: tuple[str, bytes] = ("", b"")
        self._object: RangeFile | None = None
        try:
            self._archive = self._opened_archive(path)
        except FileNotFoundError:
            fault = pointer_file(self.where)
            raise StoreError(
                f"{path} {fault}" if fault else f"there is no store at {path}"
            ) from None
        except _UNREADABLE as error:
            fault = _foreign(path)
            why = f"it {fault}" if fault else str(error)
            raise StoreError(f"{path} is not a complete tape: {why}") from None
        try:
            self._files = self._listed_files()
        except BaseException:
            self.close()
            raise

    def _opened_archive(self, path: Path | ObjectPath) -> zipfile.ZipFile:
        if isinstance(path, Path):
            check_not_special(path)
            self._bytes = path.stat().st_size
            return zipfile.ZipFile(path)
        self._object = RangeFile(path)
        self._bytes = self._object.bytes
        return zipfile.ZipFile(self._object)

    def _listed_files(self) -> dict[str, SealedFile]:
        """Return the files that the manifest lists. Raise StoreError if the members differ."""
        members = self._archive.infolist()
        names = Counter(each.filename for each in members)
        if MANIFEST not in names:
            raise StoreError(f"{self.where} is not a tape: it has no {MANIFEST}")
        self._check_sizes(members)
        self._manifest = self._read_manifest()
        files = _files_of(self._manifest, self.where)
        sizes = {each.name: each.bytes for each in files}
        for each in members:
            if not _MEMBER.fullmatch(each.filename) or names[each.filename] > 1:
                raise StoreError(
                    f"{self.where} is not a tape: it has {each.filename!r} as a member, or twice"
                )
        found = {each.filename: each.file_size for each in members if each.filename != MANIFEST}
        for name in sorted(sizes.keys() | found.keys()):
            if sizes.get(name) != found.get(name):
                raise StoreError(
                    f"{self.where} is incomplete: {name} has {found.get(name, 'no')} bytes, the "
                    f"manifest says {sizes.get(name, 'none')}"
                )
        return {each.name: each for each in files}

    def _check_sizes(self, members: list[zipfile.ZipInfo]) -> None:
        """Raise StoreError if the members claim more than a tape of this size may have."""
        claimed = {each.filename: each.file_size for each in members}
        faults = [
            oversize("it", sum(claimed.values()), expanded_bytes_max(self._bytes)),
            oversize(MANIFEST, claimed[MANIFEST], max(self._bytes, _MANIFEST_BYTES_MIN)),
        ]
        for each in members:
            is_stored = each.compress_type == zipfile.ZIP_STORED
            if not is_stored and each.compress_type != zipfile.ZIP_DEFLATED:
                faults.append(f"{each.filename} is compressed by another method than deflate")
            if is_stored and each.file_size != each.compress_size:
                faults.append(f"{each.filename} has two sizes")
        if sum(each.compress_size for each in members) > self._bytes:
            faults.append("its members overlap")
        for fault in filter(None, faults):
            raise StoreError(f"{self.where} is not a tape: {fault}")

    def _read_manifest(self) -> dict[str, Any]:
        with _reading_manifest(self.where):
            manifest = load_json(self._content(MANIFEST))
            format_ = manifest["format"]
            if isinstance(format_, int) and format_ > FORMAT:
                raise NewerStoreError(
                    f"{self.where} is a tape of format {format_}: upgrade tokentape to read it"
                )
            return dict(manifest)

    def run_files(self) -> dict[str, str]:
        found = {run_id_of(name): name for name in self._files}
        return {run_id: found[run_id] for run_id in sorted(id_ for id_ in found if id_ is not None)}

    def source(self, name: str) -> pa.Buffer:
        return pa.py_buffer(self._content(name))

    def sources(self, names: Iterable[str]) -> Callable[[str], pa.Buffer]:
        return self.source

    def exists(self, name: str) -> bool:
        return name in self._files

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        return {name: self.size(name) for name in names}

    def stored_bytes(self, name: str) -> int:
        return self._archive.getinfo(name).compress_size

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self._content(name)).hexdigest()

    def _content(self, name: str) -> bytes:
        last, content = self._last
        if last == name:
            return content
        try:
            # `read` of the archive would unpack more than the member claims before it looks.
            with self._archive.open(name) as member:
                content = member.read(self._archive.getinfo(name).file_size)
        except _UNREADABLE as error:
            raise cannot_read(f"{self.where}: {name}", error) from None
        self._last = (name, content)
        return content

    def size(self, name: str) -> int:
        if name not in self._files:
            raise StoreError(f"cannot read {self.where}: it has no {name}")
        return self._files[name].bytes

    def files_of(self, run_id: str) -> list[str]:
        folder = folder_of_run(part_name("runs", run_id))
        return sorted(name for name in self._files if folder_of_run(name) == folder)

    def at_rest(self) -> AbstractContextManager[bool]:
        """Return True at once: a tape is only ever replaced, and an open one does not change."""
        return nullcontext(True)

    def faults(self, run: SealedRun) -> list[str]:
        """See `SealedFiles`: compare the run and its files with the manifest."""
        listed: Any = self._manifest.get("runs")
        found = []
        if not _lists_exactly(listed, self.run_files()):
            found.append(f"{self.where}: its {MANIFEST} does not list exactly the runs in it")
        elif describe_run(run) not in listed:
            found.append(f"{self.where}: its {MANIFEST} contradicts run {run.run_id}")
        for name in self.files_of(run.run_id):
            try:
                if self.sha256(name) != self._files[name].sha256:
                    found.append(f"{self.where}: {name} differs from the manifest: its sha256")
            except StoreError as error:
                found.append(str(error))
        return found

    def close(self) -> None:
        self._archive.close()
        if self._object is not None:
            self._object.close()


def _foreign(path: Path | ObjectPath) -> str:
    """Return why a file is no tape, as the end of a sentence; "" if its beginning does not say."""
    if isinstance(path, Path):
        return foreign_file(path)
    head = path.read(0, HEAD_BYTES) if path.size() else b""
    is_database = known_content(head) == SQLITE
    return f"is {SQLITE}: download it first" if is_database else foreign_content(head)


def _lists_exactly(listed: Any, run_ids: Iterable[str]) -> bool:
    return (
        isinstance(listed, list)
        and all(isinstance(each, dict) for each in listed)
        and [each.get("run_id") for each in listed] == list(run_ids)
    )


def _files_of(manifest: dict[str, Any], where: str) -> list[SealedFile]:
    with _reading_manifest(where):
        files = [
            SealedFile(name=name, bytes=each["bytes"], sha256=each["sha256"])
            for name, each in manifest["files"].items()
        ]
        for each in files:
            check_plain_types(each)
        return files


def _reading_manifest(where: str) -> reporting_damage:
    """Return a context manager that raises StoreError for what a damaged manifest raises."""
    return reporting_damage(lambda why: StoreError(f"{where}: its {MANIFEST} is damaged: {why}"))
