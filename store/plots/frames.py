"""The frames that are drawn: given ones, and those of a recording."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import pandas as pd
import pyarrow as pa

from tokentape.recorder import Recording
from tokentape.recorder.codec import encode
from tokentape.recorder.events import EVENT_CLASSES, TOKEN_KIND, SystemPromptCached
from tokentape.recorder.projections import computed_of_system
from tokentape.recorder.record import RecordFilter
from tokentape.store.arrow import RUN_ID
from tokentape.store.errors import StoreError
from tokentape.store.frames.frames import cache_df, tokens_df, tools_df, turns_df
from tokentape.store.sealed.parquet import events_rows, tokens_rows
from tokentape.store.source import Selection, Source

FrameName = Literal["cache_df", "tokens_df", "tools_df", "turns_df"]

_FRAMES: dict[FrameName, Callable[..., pd.DataFrame]] = {
    "cache_df": cache_df,
    "tokens_df": tokens_df,
    "tools_df": tools_df,
    "turns_df": turns_df,
}


def frame_of_run(
    run: Recording | pd.DataFrame, name: FrameName, columns: Iterable[str]
) -> pd.DataFrame:
    """Return the columns of a run's frame. Raise StoreError unless it has them, for one run."""
    given: object = run
    if isinstance(given, str):
        raise StoreError(
            f"a plot takes a recording or the frame {name}, not a str: give "
            f"store.recording({given!r})"
        )
    if not isinstance(run, Recording):
        return _of_one_run(frame_with(run, columns, name), run)
    return _FRAMES[name](cast(Source, _OneRun(run)), columns=columns)


def system_tokens(run: Recording | pd.DataFrame) -> int:
    """Return the tokens of system prompts that a run computed; 0 for a frame, which has none."""
    if not isinstance(run, Recording):
        return 0
    cached = run.selected_events(RecordFilter(kinds=frozenset((SystemPromptCached.__name__,))))
    events = (each.event for each in cached)
    return computed_of_system(each for each in events if isinstance(each, SystemPromptCached))


def frame_with(frame: Any, columns: Iterable[str], name: str) -> pd.DataFrame:
    """Return the columns of a frame. Raise StoreError if it lacks one."""
    if not isinstance(frame, pd.DataFrame):
        raise StoreError(
            f"a plot takes a recording or the frame {name}, not a {type(frame).__name__}"
        )
    missing = [each for each in columns if each not in frame.columns]
    if missing:
        raise StoreError(
            f"the frame has no column {', '.join(map(repr, missing))}: this plot takes {name}"
        )
    return frame[list(columns)]


def _of_one_run(frame: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    runs = whole["run_id"].nunique() if "run_id" in whole.columns else 1
    if runs > 1:
        raise StoreError(
            f"the frame has the rows of {runs} runs, and this plot draws one: select it with "
            "frame[frame['run_id'] == run_id]"
        )
    return frame


@dataclass(frozen=True, slots=True)
class _OneRun:
    """What frames read of a store, for one recording and the turns that it shares as a fork."""

    run: Recording

    @property
    def where(self) -> str:
        return self.run.where

    def events_table(self, selection: Selection) -> pa.Table:
        kinds = selection.kinds if selection.kinds is not None else EVENT_CLASSES
        return self._with_run_id(events_rows(self._records(frozenset(kinds) - {TOKEN_KIND})))

    def tokens_table(self, selection: Selection) -> pa.Table:
        return self._with_run_id(tokens_rows(self._records(frozenset((TOKEN_KIND,)))))

    def _records(self, kinds: frozenset[str]) -> Iterable[Any]:
        return map(encode, self.run.selected_events(RecordFilter(kinds=kinds)))

    def _with_run_id(self, rows: pa.Table) -> pa.Table:
        ids = pa.array([self.run.run_id] * len(rows), pa.string()).cast(RUN_ID)
        return rows.append_column("run_id", ids)
