"""Runs as CSV files: one for each frame of events."""

import csv as text_csv
import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from tokentape.recorder.atomic_write import AtomicFile, atomic_write
from tokentape.store.errors import StoreError
from tokentape.store.frames import frames as all_frames
from tokentape.store.objects.object_path import ObjectPath
from tokentape.store.objects.staging import staging_folder
from tokentape.store.objects.urls import file_location
from tokentape.store.source import Source

TABLES = (
    "runs",
    "turns",
    "messages",
    "tokens",
    "tools",
    "interventions",
    "activations",
    "events",
)
"""The frames that are written, without `_df`."""
MANIFEST = "export.json"
"""The file that says that a set of CSV files is complete. It is written last."""


@overload
def export_csv(store: Source, run_id: str, folder: Path) -> list[Path]: ...
@overload
def export_csv(store: Source, run_id: str, folder: str) -> list[Path] | list[str]: ...
def export_csv(store: Source, run_id: str, folder: Path | str) -> list[Path] | list[str]:
    """Write `runs.csv`, `turns.csv`, `messages.csv` and so on, and return their paths.

    The folder may be the URL of one in an object store; then URLs are returned.

    `export.json`, with the id of the run and the sizes and sha256 of the files, is written last: a
    folder without it has an export that was interrupted. Earlier files of the same run are
    replaced. Raise StoreError if the folder has files of another run, or cannot be written to.

    Example:
        >>> import tokentape as tt
        >>> [path.name for path in tt.export_csv(store, run_id, tmp_path / "csv")]
        ['runs.csv', 'turns.csv', 'messages.csv', 'tokens.csv', 'tools.csv', 'interventions.csv',
         'activations.csv', 'events.csv']
    """
    place = file_location(folder)
    run_id = store.recording(run_id).run_id
    if not isinstance(place, Path):
        return _export_objects(store, run_id, ObjectPath.connect(place))
    _check_replaceable(place, str(place), run_id)
    return _export(store, run_id, place)


def _export_objects(store: Source, run_id: str, folder: ObjectPath) -> list[str]:
    """Write the files on this machine, and send them, the manifest last."""
    names = [f"{name}.csv" for name in TABLES]
    with staging_folder() as made:
        there, out = made / "there", made / "csv"
        there.mkdir()
        for name in folder.entries().keys() & {MANIFEST, *names}:
            # These two say which run it is.
            if name in (MANIFEST, names[0]):
                folder.joined(name).download(there / name)
            else:
                (there / name).touch()
        _check_replaceable(there, str(folder), run_id)
        _export(store, run_id, out)
        folder.joined(MANIFEST).remove()
        for name in (*names, MANIFEST):
            folder.joined(name).upload(out / name)
    return [str(folder.joined(name)) for name in names]


def _export(store: Source, run_id: str, folder: Path) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as made:
            files = []
            for name in TABLES:
                frame = getattr(all_frames, f"{name}_df")
                file = made.enter_context(AtomicFile(folder / f"{name}.csv", durable=True))
                _write(frame(store, run_id, dtype_backend="pyarrow"), file.tmp_path)
                file.sync()
                files.append(file)
            described = {each.path.name: _sum_and_size(each.tmp_path) for each in files}
            (folder / MANIFEST).unlink(missing_ok=True)
            for each in files:
                each.commit()
            with atomic_write(folder / MANIFEST, durable=True) as tmp_path:
                manifest = {"run_id": run_id, "files": described}
                tmp_path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        return [each.path for each in files]
    except (OSError, TypeError, ValueError) as error:
        raise StoreError(f"cannot write to {folder}: {error}") from error


def _check_replaceable(folder: Path, where: str, run_id: str) -> None:
    """Raise StoreError if a folder has files that an export of this run did not write."""
    names = [MANIFEST, *(f"{name}.csv" for name in TABLES)]
    there = next((name for name in names if (folder / name).exists()), None)
    if there is None:
        return
    found = _exported_run(folder)
    if found == run_id:
        return
    what = f"{there} of another export" if found is None else f"the export of run {found}"
    raise StoreError(
        f"{where} holds {what}, and run {run_id} would replace it: move it away, or name another "
        "folder"
    )


def _exported_run(folder: Path) -> str | None:
    """Return the id of the run that was exported to a folder, also if that was interrupted."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())["run_id"]
        return found if isinstance(found, str) else None
    except FileNotFoundError:
        pass
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        return None
    try:
        # It is written first.
        with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
            row = next(text_csv.DictReader(file), {})
        return row.get("run_id")
    except (OSError, ValueError, text_csv.Error):
        return None


def _sum_and_size(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": sha256}


def _write(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame with every text quoted: readers differ in what ends an unquoted field.

    A missing value is an empty field without quotes.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    texts = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    csv.write_csv(pa.table(texts, names=table.column_names), path)
