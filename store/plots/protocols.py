"""Plot a measure per turn over runs that differ in their seed."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from tokentape.recorder import Recording
from tokentape.store.errors import StoreError
from tokentape.store.plots.axes import LINES, axes_of, counted, finish, plain, whole_numbers
from tokentape.store.plots.frames import frame_of_run, frame_with

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Interval = Literal["quartiles", "bootstrap"]

_RESAMPLES = 1000
_TEXTS: dict[str, str] = {
    "quartiles": "median and middle half of the runs",
    "bootstrap": "median and its 95 % bootstrap interval",
}
_UNITS = {"surprise": "surprise (nats)", "entropy": "entropy (nats)", "logprob": "logprob (nats)"}
_STYLES = ("-", "--", "-.", ":")


def protocols(
    runs: pd.DataFrame | Iterable[Recording],
    *,
    metric: str = "surprise",
    per_turn: Literal["mean", "sum"] = "mean",
    labels: pd.DataFrame | None = None,
    interval: Interval = "quartiles",
    ax: "Axes | None" = None,
) -> "Axes":
    """Plot a metric per turn over several runs: the median, and how far it may be trusted.

    `runs` are recordings, or a frame with a row or more for each turn of each run: `tokens_df`, or
    `turns_df`, `cache_df` and `tools_df` for metrics that are their columns. `surprise` is minus
    `logprob`; tokens that the experimenter chose are left out. A turn's rows are averaged, or added
    up with `per_turn="sum"`. With `labels=tt.runs_df(store)` each plan (`protocol`; the name of a
    run without one) is a line of its own.

    `quartiles` shades the middle half of the runs, from the first quartile to the third: how
    different the runs are. `bootstrap` shades a 95 % percentile interval of the median, from 1,000
    resamples of the runs, always the same ones: how well so many runs tell the median. Raise
    StoreError for another interval, and for a metric that is no number.

    Example:
        >>> import tokentape as tt
        >>> ax = tt.plots.protocols(tt.turns_df(store), metric="computed_tokens", per_turn="sum")
        >>> ax.get_title(loc="left")
        'Computed tokens per turn, median and middle half of the runs'
    """
    if interval not in _TEXTS:
        raise StoreError(f"interval must be 'quartiles' or 'bootstrap', not {interval!r}")
    if per_turn not in ("mean", "sum"):
        raise StoreError(f"per_turn must be 'mean' or 'sum', not {per_turn!r}")
    values = _values(_rows(runs, metric), metric, per_turn)
    ax = axes_of(ax)
    names = _names(values.index.unique("run_id"), labels)
    lines = values.index.get_level_values("run_id").map(names)
    for index, (name, of_line) in enumerate(values.groupby(lines)):
        table = of_line.unstack("run_id").sort_index()
        bands = [_band(row.dropna().to_numpy(np.float64), interval) for _, row in table.iterrows()]
        low, median, high = np.array(bands).reshape(-1, 3).T
        color, count = LINES[index % len(LINES)], counted(table.shape[1], "run")
        label = plain(f"{name}: {count}") if labels is not None else count
        style = _STYLES[index // len(LINES) % len(_STYLES)]
        ax.plot(table.index, median, style, marker="o", markersize=3, color=color, label=label)
        ax.fill_between(table.index, low, high, color=color, alpha=0.25, linewidth=0)
    if len(values):
        ax.legend(loc="best", frameon=False, fontsize="small")
        whole_numbers(ax)
    axis = _UNITS.get(metric, metric)
    what = f"{metric.replace('_', ' ').capitalize()} per turn"
    title = f"{what}, {_TEXTS[interval]}" if len(values) else f"{what}: nothing was recorded"
    return finish(ax, title, x="turn", y=axis)


def _rows(runs: pd.DataFrame | Iterable[Recording], metric: str) -> pd.DataFrame:
    """Return the rows of all runs with `run_id`, `turn` and the metric."""
    column = "logprob" if metric == "surprise" else metric
    columns = ("run_id", "turn", column)
    if isinstance(runs, Recording):
        runs = [runs]
    if isinstance(runs, pd.DataFrame):
        rows = frame_with(runs, columns, "tokens_df, or another frame with the metric")
        if "forced" in runs.columns:
            rows = rows[~runs["forced"].astype(bool)]
    else:
        each_run = [frame_of_run(each, "tokens_df", (*columns, "forced")) for each in runs]
        rows = pd.concat(each_run) if each_run else pd.DataFrame(columns=[*columns, "forced"])
        rows = rows[~rows["forced"].astype(bool)]
    if not pd.api.types.is_numeric_dtype(rows[column]) and len(rows):
        raise StoreError(f"the metric {metric!r} is no number, but {rows[column].dtype}")
    sign = -1.0 if metric == "surprise" else 1.0
    return rows.assign(**{metric: sign * pd.to_numeric(rows[column]).astype("float64")})


def _values(rows: pd.DataFrame, metric: str, per_turn: str) -> pd.Series:
    """Return the metric by turn and run."""
    groups = rows.groupby(["turn", "run_id"], observed=True)[metric]
    values: pd.Series = groups.sum(min_count=1) if per_turn == "sum" else groups.mean()
    return values.dropna()


def _names(run_ids: pd.Index, labels: pd.DataFrame | None) -> dict[str, str]:
    """Return the line that each run belongs to."""
    if labels is None:
        return dict.fromkeys(run_ids, "")
    known = frame_with(labels, ("run_id", "protocol", "name"), "runs_df")
    named = known["protocol"].astype(object).where(known["protocol"].notna(), known["name"])
    found = dict(zip(known["run_id"], named, strict=True))
    unknown = [each for each in run_ids if each not in found]
    if unknown:
        raise StoreError(f"labels has no row for run {unknown[0]}: pass tt.runs_df of the store")
    return {each: str(found[each]) for each in run_ids}


def _band(values: np.ndarray, interval: Interval) -> tuple[float, float, float]:
    """Return the low end, the median and the high end for the values of some runs."""
    median = float(np.median(values))
    if interval == "quartiles":
        low, high = np.quantile(values, (0.25, 0.75))
    else:
        picks = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
        low, high = np.quantile(np.median(values[picks], axis=1), (0.025, 0.975))
    return min(float(low), median), median, max(float(high), median)
