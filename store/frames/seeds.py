"""Measures over runs of a plan that differ in their seed: a mean and its interval."""

from collections.abc import Iterable, Sequence
from typing import Literal, cast

import numpy as np
import pandas as pd
import pyarrow as pa

from tokentape.recorder.listed_keywords import suggests_keywords
from tokentape.store.arrow import NAME
from tokentape.store.errors import StoreError
from tokentape.store.frames.frames import runs_df, tokens_df, tools_df, turns_df
from tokentape.store.frames.intervals import MeanInterval, interval_of_mean
from tokentape.store.frames.reading import RunIds
from tokentape.store.frames.types import DtypeBackend, to_pandas
from tokentape.store.source import Source

Metric = Literal["entropy", "logprob", "surprise", "tokens", "tool_calls"]
By = Literal["turn", "step"]

_OF_TOKENS: tuple[Metric, ...] = ("entropy", "logprob", "surprise")
_METRICS: dict[By, tuple[Metric, ...]] = {
    "turn": (*_OF_TOKENS, "tokens", "tool_calls"),
    "step": _OF_TOKENS,
}
SEEDS_DF = pa.schema(
    [
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("step", pa.int32(), nullable=True),
        pa.field("metric", NAME, nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=True),
        pa.field("high", pa.float64(), nullable=True),
        pa.field("runs", pa.int32(), nullable=False),
        pa.field("model", NAME, nullable=False),
    ]
)


@suggests_keywords
def seeds_df(
    store: Source,
    run_id: RunIds = None,
    *,
    metrics: Metric | Iterable[Metric] | None = None,
    by: By = "turn",
    interval: MeanInterval = "t",
    dtype_backend: DtypeBackend = None,
) -> pd.DataFrame:
    """Return a row for each plan, turn and metric: the mean over the runs and its 95 % interval.

    `metrics` are `entropy`, `logprob` and `surprise` (minus `logprob`), all in nats and averaged
    over the sampled tokens of a turn; `tokens` of a reply; and `tool_calls`. With `by="step"` there
    is a row for each step of a turn, and only the first three. Tokens that the experimenter chose
    count as `tokens` only. Turns that were cut off are left out.

    The runs of a plan with one model are a sample: each has its own seed, and counts once, however
    many tokens it has. `runs` is their number in this row; with one, `low` and `high` are missing.
    `interval` is Student's `t`, or `bootstrap`, for ten runs or more: see
    `tokentape.store.frames.intervals`. By default the runs are all that are not forks; `run_id` as
    in `runs_df`. A run without a plan is of a protocol by its name. Raise StoreError for an unknown
    metric, and for two runs of one plan, model and seed, which are no two samples.

    Example:
        >>> import tokentape as tt
        >>> frame = tt.seeds_df(store, metrics=["tokens"])
        >>> frame[["protocol", "turn", "mean", "runs"]].to_dict("records")[0]
        {'protocol': 'probe', 'turn': 1, 'mean': 4.0, 'runs': 1}
    """
    chosen = _metrics(metrics, by)
    if interval not in ("t", "bootstrap"):
        raise StoreError(f"interval must be 't' or 'bootstrap', not {interval!r}")
    runs = _sample(store, run_id)
    ids = runs["run_id"].tolist()
    keys = ["run_id", "turn", *(["step"] if by == "step" else [])]
    rows: list[dict[str, object]] = []
    values = _values(store, ids, chosen, keys) if ids else {}
    of_run = runs.set_index("run_id")
    for metric in chosen:
        if metric not in values:
            continue
        found = values[metric].join(of_run, on="run_id")
        for group, each in found.groupby(["protocol", "model", *keys[1:]], observed=True)["value"]:
            protocol, model, turn, *step = group
            mean, low, high = interval_of_mean(each.to_numpy(np.float64), interval)
            rows.append(
                {
                    "protocol": protocol,
                    "model": model,
                    "turn": turn,
                    "step": step[0] if step else None,
                    "metric": metric,
                    "mean": mean,
                    "low": None if np.isnan(low) else low,
                    "high": None if np.isnan(high) else high,
                    "runs": len(each),
                }
            )
    return to_pandas(pa.Table.from_pylist(rows, SEEDS_DF), dtype_backend)


def _metrics(metrics: Metric | Iterable[Metric] | None, by: By) -> Sequence[Metric]:
    if by not in _METRICS:
        raise StoreError(f"by must be 'turn' or 'step', not {by!r}")
    known = _METRICS[by]
    if metrics is None:
        return known
    chosen = cast("list[Metric]", [metrics] if isinstance(metrics, str) else list(metrics))
    for each in chosen:
        if each not in known:
            raise StoreError(f"there is no metric {each!r} by {by}; there are {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def _sample(store: Source, run_id: RunIds) -> pd.DataFrame:
    """Return the runs with their protocol and model. Raise StoreError for one that is there twice.

    A run without a seed, as those of other programs, differs from all others.
    """
    names = ["run_id", "name", "protocol", "model", "seed", "parent_run_id"]
    runs = runs_df(store, run_id, columns=names)
    if run_id is None:
        runs = runs[runs["parent_run_id"].isna()]
    protocol = runs["protocol"].astype(object).where(runs["protocol"].notna(), runs["name"])
    runs = runs.assign(protocol=protocol.astype(str), model=runs["model"].astype(str))
    sample = ["protocol", "model", "seed"]
    seeded = runs[runs["seed"].notna()]
    twice = seeded[seeded.duplicated(sample, keep=False)]
    if len(twice):
        first = twice.iloc[0]
        same = twice[(twice[sample] == first[sample]).all(axis=1)]["run_id"].tolist()
        raise StoreError(
            f"runs {' and '.join(same[:2])} are both of {first['protocol']} with seed "
            f"{first['seed']}: they are no two samples; name the runs to compare"
        )
    return runs[["run_id", "protocol", "model"]]


def _values(
    store: Source, ids: list[str], metrics: Sequence[Metric], keys: list[str]
) -> dict[Metric, pd.DataFrame]:
    """Return `value` of each metric by the keys, for the turns that finished."""
    rounds = turns_df(store, ids, columns=["run_id", "turn", "stop_reason"])
    last = rounds.drop_duplicates(["run_id", "turn"], keep="last")
    turns = last[last["stop_reason"].notna()][["run_id", "turn"]].astype({"run_id": str})
    found: dict[Metric, pd.DataFrame] = {}
    if "tool_calls" in metrics:
        calls = tools_df(store, ids, columns=["run_id", "turn"]).astype({"run_id": str})
        found["tool_calls"] = _counted(turns, calls)
    columns = ["run_id", "turn", "step", "forced", "logprob", "entropy"]
    tokens = tokens_df(store, ids, columns=columns).astype({"run_id": str})
    tokens = tokens.merge(turns, on=["run_id", "turn"])
    if "tokens" in metrics:
        found["tokens"] = _counted(turns, tokens[["run_id", "turn"]])
    sampled = tokens[~tokens["forced"].astype(bool)]
    for metric in _OF_TOKENS:
        if metric in metrics:
            column = sampled["logprob" if metric == "surprise" else metric].astype("float64")
            value = -column if metric == "surprise" else column
            grouped = sampled[keys].assign(value=value).groupby(keys, observed=True)["value"]
            found[metric] = grouped.mean().reset_index()
    return found


def _counted(turns: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many of the rows each turn has, also if that is none."""
    counts = rows.groupby(["run_id", "turn"], observed=True).size().rename("value")
    joined = turns.join(counts, on=["run_id", "turn"])
    return joined.assign(value=joined["value"].fillna(0).astype("float64"))
