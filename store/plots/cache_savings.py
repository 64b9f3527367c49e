"""Plot what the cache saved in each turn of a run."""

from typing import TYPE_CHECKING

import pandas as pd

from tokentape.recorder import Recording
from tokentape.store.plots.axes import (
    SKY,
    VERMILION,
    axes_of,
    counted,
    finish,
    plain,
    whole_numbers,
)
from tokentape.store.plots.frames import frame_of_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("turn", "decision", "reused_tokens", "computed_tokens")
_LABELS_MAX = 30
"""Turns above whose bars a decision fits."""


def cache_savings(run: Recording | pd.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Plot the prompt tokens that each turn computed, and those that it took from the cache.

    `run` is a recording or its `cache_df`. The rounds of a turn are added up. Turns with a decision
    other than `hit` have it written above their bar.

    Example:
        >>> import tokentape as tt
        >>> ax = tt.plots.cache_savings(store.recording(run_id))
        >>> ax.get_title(loc="left")
        '... prompt tokens computed: ... times fewer'
    """
    rows = frame_of_run(run, "cache_df", _COLUMNS)
    ax = axes_of(ax)
    by_turn = rows.groupby("turn")[["computed_tokens", "reused_tokens"]].sum()
    computed, reused = by_turn["computed_tokens"], by_turn["reused_tokens"]
    prompts = computed + reused
    ax.bar(by_turn.index, computed, color=VERMILION, label="computed")
    ax.bar(by_turn.index, reused, bottom=computed, color=SKY, label="reused from the cache")
    if len(by_turn) <= _LABELS_MAX:
        for turn, decisions in rows.groupby("turn")["decision"]:
            others = [each for each in dict.fromkeys(decisions.astype(str)) if each != "hit"]
            ax.annotate(
                plain(", ".join(others)),
                (turn, prompts[turn]),
                fontsize="x-small",
                horizontalalignment="center",
                verticalalignment="bottom",
            )
    # Room for the legend above the bars.
    ax.margins(y=0.2)
    ax.legend(loc="upper left", frameon=False, fontsize="small")
    whole_numbers(ax)
    title = _title(int(computed.sum()), int(prompts.sum()))
    return finish(ax, title, x="turn", y="prompt tokens")


def _title(computed: int, prompts: int) -> str:
    said = f"{computed:,} of {counted(prompts, 'prompt token')} computed"
    if computed == prompts:
        return f"{said}: nothing was reused"
    return f"{said}: {prompts / computed:.1f} times fewer"
