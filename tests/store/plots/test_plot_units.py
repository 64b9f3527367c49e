"""Plots write bytes in the units of the page of a run."""

import io

import pandas as pd
import pytest

import tokentape as tt
from tokentape.store.plots.axes import bytes_text


def test_bytes_have_the_same_units_in_the_title_and_on_the_axis() -> None:
    frame = pd.DataFrame({"turn": [1, 2], "kv_bytes": [3e5, 4.5e6], "peak_bytes": [1.0642e9] * 2})
    ax = tt.plots.memory(frame)
    ax.figure.savefig(io.BytesIO())
    ticks = {each.get_text() for each in ax.get_yticklabels()}

    assert (
        ax.get_title(loc="left") == "Memory: keys and values take up to 4.5 MB, the peak is 1.1 GB"
    )
    assert {"1.0 MB", "20 MB", "500 MB", "1.0 GB"} <= ticks


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (312_400, "312 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1.0642e9, "1.1 GB"),
        (2e15, "2,000 TB"),
    ],
)
def test_a_number_of_bytes_is_in_decimal_units(count: float, text: str) -> None:
    assert bytes_text(count) == text
