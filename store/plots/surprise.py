"""Plot how surprising the sampled tokens of a run are."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tokentape.recorder import Recording
from tokentape.store.errors import StoreError
from tokentape.store.plots.axes import BLUE, GREY, SKY, axes_of, counted, finish
from tokentape.store.plots.frames import frame_of_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("turn", "step", "logprob", "forced")
_MANY_TOKENS = 5000
_LABELS_MAX = 25
"""Turns whose numbers fit above the plot."""


def surprise(
    run: Recording | pd.DataFrame, *, window: int | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Plot the surprise of each sampled token, in nats, with a rolling mean and the turns.

    The surprise of a token is minus its log-probability as the model gave it, before temperature.
    `run` is a recording or its `tokens_df`; tokens that the experimenter chose (`forced`) are left
    out. The mean is over the `window` tokens up to each token, across the ends of turns, from where
    half of them are there; by default a hundredth of the run, and at least 32. Raise StoreError for
    a window below 1.

    Example:
        >>> import tokentape as tt
        >>> ax = tt.plots.surprise(tt.tokens_df(store, run_id), window=4)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('sampled token, counted from 0', 'surprise (nats)')
    """
    if window is not None and window < 1:
        raise StoreError(f"window must be at least one token, not {window}")
    tokens = frame_of_run(run, "tokens_df", _COLUMNS)
    ax = axes_of(ax)
    tokens = tokens[~tokens["forced"].astype(bool)]
    nats = -tokens["logprob"].to_numpy(np.float64)
    if not len(nats):
        return finish(ax, "Surprise: no token was sampled", x="sampled token", y="surprise (nats)")
    places = np.arange(len(nats))
    window = max(32, len(nats) // 100) if window is None else window
    fewest = min(max(window // 2, 1), len(nats))
    mean = pd.Series(nats).rolling(window, min_periods=fewest).mean()
    size = 3 if len(nats) <= _MANY_TOKENS else 1
    ax.plot(places, nats, ".", color=SKY, markersize=size, label="token", rasterized=True)
    ax.plot(places, mean, color=BLUE, linewidth=1.5, label=f"mean of {counted(window, 'token')}")
    _mark_turns(ax, tokens["turn"].to_numpy())
    # Room for the legend above the tokens.
    ax.set_ylim(0, 1.2 * max(nats.max(), 0.1))
    ax.legend(loc="upper right", frameon=False, ncols=2, fontsize="small", markerscale=2)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    by_turn = pd.Series(nats).groupby(tokens["turn"].to_numpy()).mean()
    title = (
        f"Surprise of {counted(len(nats), 'sampled token')} in {counted(len(by_turn), 'turn')}: "
        f"most in turn {by_turn.idxmax()}, {by_turn.max():.2f} nats on average"
    )
    finish(ax, title, x="sampled token, counted from 0", y="surprise (nats)")
    # Room for the numbers of turns below the title.
    ax.set_title(ax.get_title(loc="left"), loc="left", fontsize="medium", pad=14)
    return ax


def _mark_turns(ax: "Axes", turns: np.ndarray) -> None:
    """Draw a line where a turn begins, and write its number above; of many turns, for some."""
    starts = np.flatnonzero(np.diff(turns, prepend=turns[0] - 1))
    every = -(-len(starts) // _LABELS_MAX)
    ax.annotate(
        "turn ",
        (0, 1),
        xycoords="axes fraction",
        fontsize="x-small",
        horizontalalignment="right",
        verticalalignment="bottom",
    )
    for start in starts[::every]:
        ax.axvline(start - 0.5, color=GREY, linewidth=0.6, zorder=0)
        ax.annotate(
            str(turns[start]),
            (start, 1),
            xycoords=ax.get_xaxis_transform(),
            fontsize="x-small",
            verticalalignment="bottom",
        )
