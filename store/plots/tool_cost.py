"""Plot what each tool of a run cost."""

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from tokentape.recorder import Recording
from tokentape.recorder.short_forms import excerpt
from tokentape.store.errors import StoreError
from tokentape.store.plots.axes import (
    BLUE,
    SKY,
    axes_of,
    bytes_text,
    counted,
    finish,
    plain,
)
from tokentape.store.plots.frames import frame_of_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Measure = Literal["tokens", "bytes", "time"]

_NAME_CHARS = 30
_COSTS = ("content_tokens", "payload_tokens", "payload_bytes", "duration_us")
_BARS: dict[Measure, tuple[tuple[str, str, str], ...]] = {
    "tokens": (
        ("content_tokens", "read by the model", BLUE),
        ("payload_tokens", "in full results", SKY),
    ),
    "bytes": (("payload_bytes", "in full results", SKY),),
    "time": (("duration_us", "in calls", BLUE),),
}
_UNITS: dict[Measure, tuple[float, str]] = {
    "tokens": (1, "tokens"),
    "bytes": (1000, "kB"),
    "time": (1000, "milliseconds"),
}


def tool_cost(
    run: Recording | pd.DataFrame, *, measure: Measure = "tokens", ax: "Axes | None" = None
) -> "Axes":
    """Plot what the results of each tool cost: `tokens`, `bytes` or `time`, the dearest on top.

    `run` is a recording or its `tools_df`. A model reads a compact result, whose tokens stay in its
    context; the full result is stored. Calls and the other two measures are written at the bars.
    Raise StoreError for another measure.

    Example:
        >>> import tokentape as tt
        >>> ax = tt.plots.tool_cost(tt.tools_df(store, run_id), measure="bytes")
        >>> ax.get_title(loc="left")
        '1 tool result: ... bytes in full'
    """
    if measure not in _BARS:
        raise StoreError(f"measure must be 'tokens', 'bytes' or 'time', not {measure!r}")
    rows = frame_of_run(run, "tools_df", ("name", *_COSTS))
    rows = rows.assign(name=rows["name"].astype(str))
    totals = rows.groupby("name")[list(_COSTS)].sum().assign(calls=rows["name"].value_counts())
    totals = totals.sort_values(_BARS[measure][0][0])
    ax = axes_of(ax, height_inches=1.5 + 0.6 * len(totals))
    size, unit = _UNITS[measure]
    places, height = np.arange(len(totals)), 0.8 / len(_BARS[measure])
    for index, (column, label, color) in enumerate(_BARS[measure]):
        offset = (len(_BARS[measure]) - 1) * height / 2 - index * height
        bars = ax.barh(places + offset, totals[column] / size, height, color=color, label=label)
        if index == len(_BARS[measure]) - 1:
            ax.bar_label(bars, _others(totals, measure), padding=4, fontsize="x-small")
    ax.set_yticks(places, [plain(excerpt(str(name), _NAME_CHARS)) for name in totals.index])
    if len(totals):
        # Room for the legend below the bars.
        ax.set_ylim(-1.0, len(totals) - 0.5)
        ax.legend(loc="lower right", frameon=False, fontsize="small", ncols=2)
    finish(ax, _title(totals, measure), x=f"{unit}, in all calls of the tool")
    # Room for the texts at the bars.
    ax.margins(x=0.4)
    return ax


def _others(totals: pd.DataFrame, measure: Measure) -> list[str]:
    """Return the text at the bar of each tool: its calls, and the measures that are not drawn."""
    texts = {
        "tokens": [f"{each:,} tokens read" for each in totals["content_tokens"]],
        "bytes": [bytes_text(each) for each in totals["payload_bytes"]],
        "time": [f"{each / 1000:,.1f} ms" for each in totals["duration_us"]],
    }
    calls = [counted(each, "call") for each in totals["calls"]]
    others = (each for name, each in texts.items() if name != measure)
    return [", ".join(each) for each in zip(calls, *others, strict=True)]


def _title(totals: pd.DataFrame, measure: Measure) -> str:
    if totals.empty:
        return "Tools: no result was recorded"
    sums = {name: int(totals[name].sum()) for name in _COSTS}
    calls = counted(int(totals["calls"].sum()), "tool result")
    if measure == "bytes":
        return f"{calls}: {bytes_text(sums['payload_bytes'])} in full"
    if measure == "time":
        return f"{calls}: {sums['duration_us'] / 1_000_000:,.2f} s in calls"
    read, full = sums["content_tokens"], sums["payload_tokens"]
    return f"{calls}: the model read {counted(read, 'token')} in place of {full:,}"
