"""Runs as CSV files: one for each frame of four."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.paths import expand_path
from tokentape.store.errors import StoreError
from tokentape.store.frames.frames import events_df, runs_df, tokens_df, turns_df
from tokentape.store.source import Source


def export_csv(store: Source, run_id: str, folder: Path | str) -> list[Path]:
    """Write `runs.csv`, `turns.csv`, `events.csv` and `tokens.csv`, and return their paths.

    Earlier files are replaced atomically. Raise StoreError if the folder cannot be written to.

    Example:
        >>> import tokentape as tt
        >>> [path.name for path in tt.export_csv(store, run_id, tmp_path / "csv")]
        ['runs.csv', 'turns.csv', 'events.csv', 'tokens.csv']
    """
    folder = expand_path(folder)
    frames: dict[str, Callable[[], pd.DataFrame]] = {
        "runs": lambda: runs_df(store, run_id, dtype_backend="pyarrow"),
        "turns": lambda: turns_df(store, run_id, dtype_backend="pyarrow"),
        "events": lambda: events_df(store, run_id, dtype_backend="pyarrow"),
        "tokens": lambda: tokens_df(store, run_id, dtype_backend="pyarrow"),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(frame(), folder / f"{name}.csv") for name, frame in frames.items()]
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot write to {folder}: {error}") from None


def _write(frame: pd.DataFrame, path: Path) -> Path:
    """Write a frame with every text quoted: readers differ in what ends an unquoted field.

    A missing value is an empty field without quotes.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    texts = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    with atomic_write(path) as tmp_path:
        csv.write_csv(pa.table(texts, names=table.column_names), tmp_path)
    return path
