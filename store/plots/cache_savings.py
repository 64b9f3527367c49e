"""Plot what the cache saved in each turn of a run."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from tokentape.recorder import Recording
from tokentape.recorder.projections import PromptWork
from tokentape.store.plots.axes import (
    SKY,
    VERMILION,
    axes_of,
    counted,
    finish,
    plain,
    whole_numbers,
)
from tokentape.store.plots.frames import frame_of_run, system_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("turn", "decision", "reused_tokens", "computed_tokens")
_LABELS_MAX = 30
"""Turns above whose bars a decision fits."""


def cache_savings(run: Recording | pd.DataFrame, *, ax: "Axes | None" = None) -> "Axes":
    """Plot the prompt tokens that each turn computed, and those that it took from the cache.

    `run` is a recording or its `cache_df`. The rounds of a turn are added up. Turns with a decision
    other than `hit` have it written above their bar. A recording also has the system prompt that
    was computed before the first turn: it is the bar `system`, and the title counts it, as the page
    of the run does. A `cache_df` has turns only, and the title says so.

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
    work = PromptWork(
        system_tokens=system_tokens(run),
        turn_tokens=int(computed.sum()),
        prompt_tokens=int(prompts.sum()),
    )
    if work.system_tokens:
        ax.bar([0], work.system_tokens, color=VERMILION)
        _write_above(ax, "system", 0, work.system_tokens)
    ax.bar(by_turn.index, computed, color=VERMILION, label="computed")
    ax.bar(by_turn.index, reused, bottom=computed, color=SKY, label="reused from the cache")
    if len(by_turn) <= _LABELS_MAX:
        for turn, decisions in rows.groupby("turn")["decision"]:
            others = [each for each in dict.fromkeys(decisions.astype(str)) if each != "hit"]
            _write_above(ax, ", ".join(others), turn, prompts[turn])
    # Room for the legend above the bars.
    ax.margins(y=0.2)
    ax.legend(loc="upper left", frameon=False, fontsize="small")
    whole_numbers(ax)
    where = "" if isinstance(run, Recording) else " in turns"
    return finish(ax, _title(work, where), x="turn", y="prompt tokens")


def _write_above(ax: "Axes", text: str, turn: Any, tokens: float) -> None:
    ax.annotate(
        plain(text),
        (turn, tokens),
        fontsize="x-small",
        horizontalalignment="center",
        verticalalignment="bottom",
    )


def _title(work: PromptWork, where: str) -> str:
    prompts = counted(work.prompt_tokens, "prompt token")
    said = f"{work.computed_tokens:,} of {prompts} computed{where}"
    if work.turn_tokens == work.prompt_tokens or work.times_fewer is None:
        return f"{said}: nothing was reused"
    return f"{said}: {work.times_fewer:.1f} times fewer"
