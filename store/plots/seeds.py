"""Plot a measure over runs that differ in their seed, as `seeds_df` has it."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tokentape.store.errors import StoreError
from tokentape.store.plots.axes import LINES, axes_of, counted, finish, plain, whole_numbers
from tokentape.store.plots.frames import frame_with

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("protocol", "model", "turn", "step", "metric", "mean", "low", "high", "runs")
_UNITS = {
    "entropy": "entropy (nats)",
    "logprob": "logprob (nats)",
    "surprise": "surprise (nats)",
    "tokens": "tokens of the reply",
    "tool_calls": "tool calls",
}
_STYLES = ("-", "--", "-.", ":")


def seeds(frame: pd.DataFrame, *, metric: str = "surprise", ax: "Axes | None" = None) -> "Axes":
    """Plot the mean of a metric over runs, with a band for its 95 % interval, a line for each plan.

    `frame` is a `seeds_df`: by turn, or the steps of one turn of it. A mean of one run has no band.
    Raise StoreError for a metric that the frame does not have, and for the steps of several turns.

    Example:
        >>> import tokentape as tt
        >>> ax = tt.plots.seeds(tt.seeds_df(store), metric="tokens")
        >>> ax.get_title(loc="left")
        'Tokens per turn, mean and 95 % interval over runs'
    """
    frame = frame_with(frame, _COLUMNS, "seeds_df")
    known = sorted(set(frame["metric"].astype(str)))
    if known and metric not in known:
        raise StoreError(f"the frame has no metric {metric!r}; it has {', '.join(known)}")
    rows = frame[frame["metric"].astype(str) == metric]
    x = "step" if rows["step"].notna().any() else "turn"
    turns = rows["turn"].nunique()
    if x == "step" and turns > 1:
        raise StoreError(
            f"the frame has the steps of {turns} turns: select one with frame[frame['turn'] == 1]"
        )
    ax = axes_of(ax)
    several = rows["model"].nunique() > 1
    groups = rows.groupby(["protocol", "model"], observed=True)
    for index, ((protocol, model), each) in enumerate(groups):
        each = each.sort_values(x)
        low, mean, high = (
            each[name].to_numpy(dtype=np.float64, na_value=np.nan)
            for name in ("low", "mean", "high")
        )
        places = each[x].to_numpy(np.int64)
        name = f"{protocol} ({model})" if several else str(protocol)
        label = plain(f"{name}: {counted(int(each['runs'].max()), 'run')}")
        color, style = LINES[index % len(LINES)], _STYLES[index // len(LINES) % len(_STYLES)]
        ax.plot(places, mean, style, marker="o", markersize=3, color=color, label=label)
        ax.fill_between(places, low, high, color=color, alpha=0.25, linewidth=0)
    what = f"{metric.replace('_', ' ').capitalize()} per {x}"
    title = f"{what}: nothing was recorded"
    if len(rows):
        ax.legend(loc="best", frameon=False, fontsize="small")
        whole_numbers(ax)
        title = f"{what}, mean and 95 % interval over runs"
    return finish(ax, title, x=x, y=_UNITS.get(metric, metric))
