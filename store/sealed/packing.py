"""Packing of runs into a tape: a file of this machine, or an object sent in one piece."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, overload

from tokentape.recorder import Recording
from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.foreign_files import pointer_file
from tokentape.recorder.leftovers import temporary_folder
from tokentape.recorder.regular_file import check_not_special
from tokentape.store.errors import StoreError
from tokentape.store.objects.object_path import ObjectPath
from tokentape.store.objects.staging import staging_folder
from tokentape.store.objects.urls import file_location
from tokentape.store.sealed.layout import run_id_of
from tokentape.store.sealed.run_file import read_sealed_run
from tokentape.store.sealed.sealing import export_parquet, sealed_events
from tokentape.store.sealed.tape import FORMAT, MANIFEST, Tape, describe_run
from tokentape.store.source import Attachments, with_parents

# The oldest time of a zip file: the bytes of a tape do not depend on when it was packed.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_ATTEMPTS = 5
"""How often a tape is sent to an object store where another process writes it."""


@overload
def pack(recordings: Iterable[Recording], attached: Attachments, path: Path) -> Path: ...
@overload
def pack(recordings: Iterable[Recording], attached: Attachments, path: str) -> Path | str: ...
def pack(recordings: Iterable[Recording], attached: Attachments, path: Path | str) -> Path | str:
    """Write runs and their attachments to a tape, and return its path.

    The path may be the URL of a file in an object store; then the URL is returned.

    `attached` supplies the payloads, verdicts and floors; usually it is the store of the runs. The
    ancestors of a fork are included. A tape at that path is replaced atomically if it holds no run
    or event that would be lost. Raise StoreError for any other file at that path and if the tape
    cannot be written, RecordingError as `export_parquet` does.

    Example:
        >>> import tokentape as tt
        >>> tape = tt.pack([store.recording(run_id)], store, tmp_path / "run.tape")
        >>> with tt.open_store(tape) as opened:
        ...     opened.summaries()[0].turns
        3
    """
    place = file_location(path)
    by_id = {recording.run_id: recording for recording in with_parents(recordings)}
    if not by_id:
        raise StoreError(f"cannot write {place}: a tape must have at least one run")
    if not isinstance(place, Path):
        _pack_object(by_id, attached, ObjectPath.connect(place))
        return place.text
    path = place
    try:
        check_not_special(path)
        if path.exists():
            _check_nothing_lost(path, by_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_write(path, durable=True) as tmp_path,
            temporary_folder(path.parent) as made,
        ):
            _write_runs(by_id, attached, tmp_path, made)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot write {path}: {error}") from None
    return path


def _pack_object(by_id: Mapping[str, Recording], attached: Attachments, path: ObjectPath) -> None:
    """Write a tape on this machine, and send it in one piece."""
    with staging_folder() as made:
        tape = made / "tape"
        for _ in range(_ATTEMPTS):
            replaced = path.check_replaceable()
            try:
                if replaced is not None:
                    _check_nothing_lost(path, by_id)
                if not tape.exists():
                    _write_runs(by_id, attached, tape, made)
                path.upload_in_place_of(tape, replaced)
                return
            except StoreError:
                # Another process may have written a tape since.
                if path.version() == replaced:
                    raise
    raise StoreError(f"cannot write {path}: other processes keep writing it; try again")


def _write_runs(
    by_id: Mapping[str, Recording], attached: Attachments, path: Path, made: Path
) -> None:
    """Write a tape. `made` is a folder for the files on the way, and is locked."""
    # A folder of its own, since sealing locks it.
    folder = made / "sealed"
    files = [
        (each.relative_to(folder).as_posix(), each)
        for run_id in sorted(by_id)
        for each in export_parquet(by_id[run_id], attached, folder)
    ]
    _write(path, files)


def _check_nothing_lost(path: Path | ObjectPath, packed: Mapping[str, Recording]) -> None:
    """Raise StoreError for a file that is not a tape, and for a tape with more than is packed."""
    try:
        tape = Tape(path)
    except StoreError:
        fault = pointer_file(str(path)) or "is not a readable tape: move it away"
        raise StoreError(f"{path} exists and {fault}, or choose another name") from None
    with closing(tape):
        for run_id, name in tape.run_files().items():
            if run_id not in packed:
                raise StoreError(
                    f"{path} exists, and its run {run_id} would be lost: pack that run, too, or "
                    "choose another name"
                )
            if _events_in(tape, name) > sealed_events(packed[run_id]):
                raise StoreError(
                    f"{path} exists and has more events of run {run_id} than would be packed: "
                    "choose another name"
                )


def _events_in(tape: Tape, name: str) -> int:
    """Return the number of events in the metadata of a run; 0 if it cannot be read."""
    try:
        return read_sealed_run(tape.source(name), name).events
    except StoreError:
        return 0


def _write(path: Path, files: list[tuple[str, Path]]) -> None:
    runs = [read_sealed_run(file, name) for name, file in files if run_id_of(name) is not None]
    manifest = {
        "format": FORMAT,
        "tokentape": version("tokentape"),
        "runs": [describe_run(run) for run in runs],
        "files": {name: _sum_and_size(file) for name, file in files},
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        text = json.dumps(manifest, sort_keys=True, indent=1)
        archive.writestr(_member(MANIFEST, len(text)), text)
        for name, file in files:
            member = _member(name, file.stat().st_size)
            with file.open("rb") as content, archive.open(member, "w") as target:
                shutil.copyfileobj(content, target)


def _sum_and_size(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": sha256}


def _member(name: str, size: int) -> zipfile.ZipInfo:
    """Return a member's header without anything that depends on the machine."""
    member = zipfile.ZipInfo(name, _NO_TIME)
    member.create_system, member.external_attr, member.file_size = 3, 0o644 << 16, size
    return member
