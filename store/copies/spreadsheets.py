"""A run as tables for spreadsheets: what the frames say, a file each."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tokentape.recorder.atomic_write import atomic_write
from tokentape.store.errors import StoreError
from tokentape.store.frames.frames import events_df, runs_df, tokens_df, turns_df
from tokentape.store.source import Source


def export_csv(store: Source, run_id: str, folder: Path | str) -> list[Path]:
    """Write `runs.csv`, `turns.csv`, `events.csv` and `tokens.csv`; each aside, and renamed.

    Raises StoreError where the folder cannot be written.
    """
    folder = Path(folder)
    frames: dict[str, Callable[[], pd.DataFrame]] = {
        "runs": lambda: runs_df(store, run_id),
        "turns": lambda: turns_df(store, run_id),
        "events": lambda: events_df(store, run_id),
        "tokens": lambda: tokens_df(store, run_id),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_write(frame(), folder / f"{name}.csv") for name, frame in frames.items()]
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot write to {folder}: {error}") from None


def _write(frame: pd.DataFrame, path: Path) -> Path:
    with atomic_write(path) as tmp_path:
        frame.to_csv(tmp_path, index=False, lineterminator="\n")
    return path
