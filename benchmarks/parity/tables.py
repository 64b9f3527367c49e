"""The cells of the parity matrix, counted into a table."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from benchmarks.parity.matrix import STARTS, Cell


@dataclass(frozen=True, slots=True)
class Tally:
    """How many cells are equal, of how many that could be compared."""

    bitwise: int
    bitwise_of: int
    same_tokens: int
    same_tokens_of: int

    def __str__(self) -> str:
        bits = f"{self.bitwise}/{self.bitwise_of}" if self.bitwise_of else "-"
        tokens = f"{self.same_tokens}/{self.same_tokens_of}" if self.same_tokens_of else "-"
        return f"{bits} bits, {tokens} tokens"


def tally(cells: Iterable[Cell]) -> Tally:
    """Count the cells."""
    counted = list(cells)
    bitwise = [each.bitwise for each in counted if each.bitwise is not None]
    tokens = [
        each.same_tokens_as_fresh for each in counted if each.same_tokens_as_fresh is not None
    ]
    return Tally(sum(bitwise), len(bitwise), sum(tokens), len(tokens))


def parity_table(cells: Sequence[Cell]) -> Table:
    """Return a table with a row for each family and dtype, and a column for each start.

    An entry counts the cells of all samplers.
    """
    table = Table("family", "dtype", *STARTS, box=None)
    for family, dtype in dict.fromkeys((each.family, each.dtype) for each in cells):
        row = [each for each in cells if (each.family, each.dtype) == (family, dtype)]
        table.add_row(
            family,
            dtype,
            *(str(tally(each for each in row if each.start == start)) for start in STARTS),
        )
    return table


def to_json(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the cells as plain values."""
    return [asdict(each) | {"passes": each.passes} for each in cells]


def summary_line(cell: Cell) -> str:
    """Return a line that describes a cell."""
    return (
        f"{cell.family} {cell.dtype} {cell.start} {cell.config}: {cell.decision}, "
        f"bitwise {cell.bitwise}, same tokens as fresh {cell.same_tokens_as_fresh}"
    )
