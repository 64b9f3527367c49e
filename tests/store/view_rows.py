"""Compare the rows of a SQL view with the data frame of its name."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

ORDER = {
    "runs_df": "started_at",
    "messages_df": "run_id, seq",
    "interventions_df": "run_id, seq",
    "activations_df": "run_id, seq, layer",
    "events_df": "run_id, seq",
    "turns_df": "run_id, turn",
    "tokens_df": "run_id, seq",
    "top_logprobs_df": "run_id, seq, rank",
    "cache_df": "run_id, decided_at",
    "tools_df": "run_id, returned_at",
    "verdicts_df": "run_id, at",
}
EXACT = ("tokens_df", "top_logprobs_df", "verdicts_df")


def plain(value: Any) -> Any:
    """Return a value of a frame as SQL has it: no NA, no NUL, times with a zone."""
    if (
        value is None
        or value is pd.NA
        or value is pd.NaT
        or (isinstance(value, float) and math.isnan(value))
    ):
        return None
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, np.generic):
        return value.item()
    return value


def as_in_frame(value: Any, like: Any) -> Any:
    if isinstance(like, pd.Timestamp):
        return pd.Timestamp(value).tz_convert("UTC")
    return bool(value) if isinstance(like, bool) else value


def assert_rows_are_frame(name: str, rows: Iterable[Sequence[Any]], frame: pd.DataFrame) -> None:
    """Compare each value, floats to the bit.

    Where the database reads a decimal in JSON, it may miss by the last bit of a double.
    """
    viewed = list(rows)
    assert len(viewed) == len(frame)
    for column, seen in zip(frame.columns, zip(*viewed, strict=True), strict=False):
        for value, like in zip(seen, map(plain, frame[column].tolist()), strict=True):
            got = as_in_frame(value, like)
            if isinstance(like, float) and name not in EXACT:
                assert got == pytest.approx(like, rel=3e-16, abs=0)
            else:
                # repr tells minus zero from zero.
                assert repr(got) == repr(like), (name, column)
