"""What the project promises itself, by the name of a figure and its peer."""

from dataclasses import dataclass
from typing import Literal

from benchmarks.summary.comparison import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A bound of a ratio or of tokentape's own value."""

    of: Literal["ratio", "value"]
    bound: float
    at_least: bool

    def is_met(self, figure: Comparison) -> bool | None:
        """Return whether a figure keeps the bound, or None if it was not measured."""
        measured = figure.ratio if self.of == "ratio" else figure.ours
        if measured is None:
            return None
        return measured >= self.bound if self.at_least else measured <= self.bound

    def text(self, unit: str) -> str:
        """Return the bound in the unit of the figure, or as a ratio."""
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.bound:g} " + ("×" if self.of == "ratio" else unit)


def _ratio(bound: float) -> Budget:
    return Budget(of="ratio", bound=bound, at_least=True)


def _at_most(bound: float) -> Budget:
    return Budget(of="value", bound=bound, at_least=False)


BUDGETS: dict[tuple[str, str], Budget] = {
    ("record a token", "bare sqlite3"): _at_most(0.05),
    ("share of recording in a step, 64 tokens of context", ""): _at_most(0.5),
    ("space of a token, live store", "bare sqlite3"): _at_most(90),
    ("space of a token, sealed", "bare sqlite3"): _at_most(38),
    ("step, 64 tokens of context, greedy", "generate"): _ratio(1.15),
    ("step, 64 tokens of context, sampled", "generate"): _ratio(1.15),
    ("step, 5,000 tokens of context, greedy", "generate"): _ratio(1.5),
    ("step, 5,000 tokens of context, sampled", "generate"): _ratio(1.5),
    ("step of 8 at once", "generate, padded batch"): _at_most(2.6),
    ("step of 16 at once", "generate, padded batch"): _at_most(3),
    ("step of 32 at once", "generate, padded batch"): _at_most(4),
    ("tokens forwarded over 20 turns", "no cache"): _ratio(11.7),
    ("20 turns behind 6,287 tokens", "generate, cache reused by hand"): _ratio(1.0),
    ("transient memory of a prefill", "eager attention"): _at_most(0.3),
    ("verify 20 turns", "regenerating them"): _ratio(10),
    ("retrace 20 turns in bfloat16", "generating them"): _ratio(1.0),
    ("verify a small tape in bulk, 2 processes", "one by one"): _ratio(4),
    ("1,000,000 tokens into pandas, Parquet", "bare pd.read_parquet"): _at_most(0.15),
    ("1,000,000 tokens into pandas, SQLite", "bare pd.read_parquet"): _at_most(1.0),
    ("tokentape list", "importing SQLAlchemy"): _at_most(1.0),
    ("tokentape show", "importing SQLAlchemy"): _at_most(1.0),
    ("tokentape rebuild", "importing SQLAlchemy"): _at_most(1.0),
    ("load the demo model", "transformers, from GGUF"): _at_most(3),
}
"""Keys are `what` and `peer` of a comparison."""


def budget_of(figure: Comparison) -> Budget | None:
    """Return the budget of a figure, or None if it has none."""
    return BUDGETS.get((figure.what, figure.peer))
