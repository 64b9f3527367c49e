"""`tt.plots.protocols` draws a metric over runs that differ in their seed."""

from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

import tokentape as tt
from tokentape.store.plots.protocols import Interval, _band


def ys(ax: Axes, line: int = 0) -> list[float]:
    return list(np.asarray(ax.lines[line].get_ydata(), dtype=float))


def title(ax: Axes) -> str:
    return ax.get_title(loc="left")


def test_each_plan_is_a_line_and_rows_of_a_turn_are_added_up_or_averaged() -> None:
    turns = pd.DataFrame(
        {"run_id": ["a", "a", "a", "b"], "turn": [1, 1, 2, 1], "computed_tokens": [10, 20, 6, 8]}
    )
    labels = pd.DataFrame(
        {"run_id": ["a", "b"], "protocol": ["cold $x$", None], "name": ["one", "two"]}
    )
    summed = tt.plots.protocols(turns, metric="computed_tokens", per_turn="sum", labels=labels)
    mean = tt.plots.protocols(turns, metric="computed_tokens", interval="bootstrap")
    legend = summed.get_legend()

    assert [ys(summed, 0), ys(summed, 1)] == [[30, 6], [8]]
    assert ys(mean) == [11.5, 6]
    assert "median and its 95 % bootstrap interval" in title(mean)
    assert legend is not None
    assert [each.get_text() for each in legend.get_texts()] == [r"cold \$x\$: 1 run", "two: 1 run"]
    summed.figure.savefig(BytesIO())
    with pytest.raises(tt.StoreError, match=r"labels has no row for run b: pass tt\.runs_df"):
        tt.plots.protocols(turns, metric="computed_tokens", labels=labels[:1])


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9),
    st.sampled_from(["quartiles", "bootstrap"]),
    st.randoms(use_true_random=False),
)
def test_a_band_has_its_median_between_values_of_the_runs(
    values: list[float], interval: Interval, random: Any
) -> None:
    low, median, high = _band(np.array(values), interval)

    assert min(values) <= low <= median <= high <= max(values)
    if interval == "quartiles":
        random.shuffle(values)
    assert _band(np.array(values), interval) == (low, median, high)
