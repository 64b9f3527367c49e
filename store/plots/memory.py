"""Plot the memory that each turn of a run took."""

from typing import TYPE_CHECKING

import pandas as pd

from tokentape.recorder import Recording
from tokentape.store.plots.axes import (
    BLUE,
    ORANGE,
    axes_of,
    bytes_text,
    finish,
    whole_numbers,
)
from tokentape.store.plots.frames import frame_of_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("turn", "kv_bytes", "peak_bytes")


def memory(run: Recording | pd.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Plot the bytes of keys and values after each prefill, and the highest memory.

    `run` is a recording or its `cache_df`. Of a turn with several rounds the largest is drawn. The
    peak is that of the device on CUDA, else the resident memory of the process so far, which has
    the weights and everything else in it; the scale is logarithmic, because it is far above the
    cache of a small model.

    Example:
        >>> import tokentape as tt
        >>> ax = tt.plots.memory(tt.cache_df(store, run_id))
        >>> ax.get_title(loc="left")
        'Memory: keys and values take up to ... kB, the peak is ...'
    """
    rows = frame_of_run(run, "cache_df", _COLUMNS).dropna()
    ax = axes_of(ax)
    if rows.empty:
        return finish(ax, "Memory: no prefill was recorded", x="turn", y="memory (bytes)")
    by_turn = rows.groupby("turn")[["kv_bytes", "peak_bytes"]].max().astype("float64")
    kv, peak = by_turn["kv_bytes"], by_turn["peak_bytes"]
    ax.plot(by_turn.index, peak, "s--", color=ORANGE, markersize=4, label="peak")
    ax.plot(by_turn.index, kv, "o-", color=BLUE, markersize=4, label="keys and values")
    ax.set_yscale("log")
    _label_bytes(ax)
    ax.legend(loc="best", frameon=False, fontsize="small")
    whole_numbers(ax)
    title = (
        f"Memory: keys and values take up to {bytes_text(kv.max())}, "
        f"the peak is {bytes_text(peak.max())}"
    )
    return finish(ax, title, x="turn", y="memory (logarithmic)")


def _label_bytes(ax: "Axes") -> None:
    """Write the ticks as bytes, in the units of the title: decimal ones, at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(lambda count, _: bytes_text(count))
    ax.yaxis.set_minor_formatter(NullFormatter())
