"""Time to read a million token rows into pandas, from SQLite and from sealed Parquet files."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

import tokentape as tt
from benchmarks.store.long_run import LongRun
from benchmarks.store.synthetic_tokens import SyntheticTokens
from benchmarks.store.workload import Workload
from benchmarks.stores import open_file_store
from tokentape.recorder.events import TurnFinished

ROWS = 1_000_000
# A run is read into memory to be sealed, so the rows are split into several runs.
RUN_ROWS = 200_000
_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFigures:
    """The seconds to read the rows from one source, for each round."""

    source: str
    rows: int
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTimes:
    """The time that preparing the rows took."""

    record_seconds: float
    """Of drawing and recording them."""
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
) -> WriteTimes:
    """Record rows event by event into `live`, and seal each run into `sealed`.

    `tick` is called after each turn.
    """
    long_run = LongRun(workload, SyntheticTokens(tokenizer))
    record_seconds = seal_seconds = 0.0
    with open_file_store(live) as store:
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
    return WriteTimes(record_seconds=record_seconds, seal_seconds=seal_seconds)


def measure_frames(
    live: Path, sealed: Path, *, rounds: int = _ROUNDS
) -> tuple[list[FrameFigures], bool]:
    """Read the rows from each source in turn, after a round to warm up.

    Also return whether both stores gave the same frame.
    """
    with open_file_store(live) as store, tt.open_store(sealed) as files:
        sources: dict[str, Callable[[], pd.DataFrame]] = {
            "tokens_df, SQLite": lambda: tt.tokens_df(store),
            "tokens_df, sealed Parquet": lambda: tt.tokens_df(files),
            "bare pd.read_parquet, no top-5": lambda: _read_bare(sealed / "tokens"),
        }
        seconds: dict[str, list[float]] = {source: [] for source in sources}
        frames: dict[str, pd.DataFrame] = {}
        for _ in range(rounds + 1):
            for source, read in sources.items():
                frames.pop(source, None)
                began = time.perf_counter()
                frames[source] = read()
                seconds[source].append(time.perf_counter() - began)
    figures = [
        FrameFigures(source=source, rows=len(frames[source]), seconds=tuple(taken[1:]))
        for source, taken in seconds.items()
    ]
    from_live, from_files, _ = frames.values()
    return figures, _sorted(from_live).equals(_sorted(from_files))


def _read_bare(folder: Path) -> pd.DataFrame:
    """Read all columns except the top log-probabilities, which `tokens_df` does not return."""
    schema = pq.read_schema(next(folder.rglob("*.parquet")))
    names = [name for name in schema.names if name not in ("top_ids", "top_logprobs")]
    return pd.read_parquet(folder, columns=names)


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by run and event: ids of runs of the same millisecond have no order of their own."""
    return frame.sort_values(["run_id", "seq"], ignore_index=True)
