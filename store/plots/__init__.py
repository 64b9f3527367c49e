"""Plots of runs, drawn with matplotlib, which `pip install "tokentape[plots]"` adds.

A function takes a `Recording`, or the frame that it names, with the rows of one run; `protocols`
and `seeds` take several runs. With a recording of a fork, the turns that it shares are drawn, too.
Everything is drawn into `ax`, or into a new figure, and the axes are returned:
`ax.figure.savefig(…)` writes a file, and a notebook shows the picture of axes that are the value of
a cell. pyplot is never used. Colours that meet in a plot differ for colour-blind people and in
grey.

All raise MissingLibraryError without matplotlib, StoreError for a frame that lacks a column or has
the rows of several runs, and RecordingError for a damaged recording.

Example:
    >>> import tokentape as tt
    >>> ax = tt.plots.surprise(store.recording(run_id))
    >>> ax.get_ylabel()
    'surprise (nats)'
    >>> ax.figure.savefig(tmp_path / "surprise.png")
"""

from tokentape.store.plots.cache_savings import cache_savings
from tokentape.store.plots.memory import memory
from tokentape.store.plots.protocols import protocols
from tokentape.store.plots.seeds import seeds
from tokentape.store.plots.surprise import surprise
from tokentape.store.plots.tool_cost import tool_cost

__all__ = ["cache_savings", "memory", "protocols", "seeds", "surprise", "tool_cost"]
