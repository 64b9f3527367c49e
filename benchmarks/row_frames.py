"""A million tokens into pandas, from the live store and from sealed files."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

import tokentape as tt
from benchmarks.contenders import recording_file
from benchmarks.long_run import LongRun
from benchmarks.token_draws import TokenDraws
from benchmarks.workload import Workload
from tokentape.recorder.events import TurnFinished

ROWS = 1_000_000
# A night's work is several runs, and a run is in memory when it is sealed.
RUN_ROWS = 200_000
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFigures:
    """A way to the same rows, and the seconds of each round."""

    way: str
    rows: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Seconds in which the rows were made and recorded, and those in which they were sealed."""

    record_seconds: float
    seal_seconds: float


def write_rows(
    workload: Workload,
    tokenizer: PreTrainedTokenizerBase,
    live: Path,
    sealed: Path,
    *,
    rows: int = ROWS,
    run_rows: int = RUN_ROWS,
    tick: Callable[[], None] = lambda: None,
) -> Written:
    """Recorded event by event, as by any run, and sealed run by run; ticks at every turn."""
    long_run = LongRun(workload, TokenDraws(tokenizer))
    record_seconds = seal_seconds = 0.0
    with recording_file(live) as store:
        for first in range(0, rows, run_rows):
            began = time.perf_counter()
            with tt.Recorder(store) as recorder:
                for event in long_run.events(min(rows - first, run_rows)):
                    recorder.record(event)
                    if isinstance(event, TurnFinished):
                        tick()
            recorded = time.perf_counter()
            tt.export_parquet(store.recording(recorder.run_id), store, sealed)
            record_seconds += recorded - began
            seal_seconds += time.perf_counter() - recorded
    return Written(record_seconds=record_seconds, seal_seconds=seal_seconds)


def measure_frames(
    live: Path, sealed: Path, *, rounds: int = _ROUNDS
) -> tuple[list[FrameFigures], bool]:
    """The ways in turn after a round to warm up, and whether both stores gave the same frame."""
    with recording_file(live) as store, tt.open_store(sealed) as files:
        ways: dict[str, Callable[[], pd.DataFrame]] = {
            "tokens_df, SQLite": lambda: tt.tokens_df(store),
            "tokens_df, sealed Parquet": lambda: tt.tokens_df(files),
            "bare pd.read_parquet, no candidates": lambda: _read_bare(sealed / "tokens"),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        frames: dict[str, pd.DataFrame] = {}
        for _ in range(rounds + 1):
            for way, read in ways.items():
                frames.pop(way, None)
                began = time.perf_counter()
                frames[way] = read()
                seconds[way].append(time.perf_counter() - began)
    figures = [
        FrameFigures(way=way, rows=len(frames[way]), seconds=tuple(taken[1:]))
        for way, taken in seconds.items()
    ]
    from_live, from_files, _ = frames.values()
    return figures, _in_order(from_live).equals(_in_order(from_files))


def _read_bare(folder: Path) -> pd.DataFrame:
    """The columns that `tokens_df` has, and no more."""
    schema = pq.read_schema(next(folder.rglob("*.parquet")))
    names = [name for name in schema.names if not name.startswith("candidate")]
    return pd.read_parquet(folder, columns=names)


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs that began within the same millisecond have ids in no order."""
    return frame.sort_values(["run_id", "seq"], ignore_index=True)
