"""What an attack is given, and the counts that it returns."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tokentape as tt

NOTES_MAX = 5
_NOTE_CHARS = 400


@dataclass
class Row:
    """The counts of one kind of attack."""

    kind: str
    tried: int = 0
    silent: int = 0
    """Wrong or missing data without an error: lost events, wrong answers, missed faults."""
    unexpected: int = 0
    """Errors that are not tokentape's own, limits that were passed, and attacks that failed."""
    notes: list[str] = field(default_factory=list)
    """What was silent or unexpected; the first few."""
    remark: str = ""
    """Further figures."""

    @property
    def held(self) -> int:
        """How often everything was right, or was refused with an error of tokentape."""
        return self.tried - self.silent - self.unexpected

    def note(self, text: str) -> None:
        """Add a note, unless there are enough."""
        if len(self.notes) < NOTES_MAX:
            self.notes.append(" ".join(text.split())[:_NOTE_CHARS])

    def missed(self, text: str) -> None:
        """Count something silent."""
        self.silent += 1
        self.note(f"silent: {text}")

    @contextmanager
    def attempt(self, what: str, *, may_refuse: bool = False) -> Iterator[None]:
        """Count an attempt: a failed assertion is silent, any other error unexpected.

        With `may_refuse`, an error of tokentape is right.
        """
        self.tried += 1
        try:
            yield
        except AssertionError as error:
            self.missed(f"{what}: {error}")
        except Exception as error:
            if not (may_refuse and isinstance(error, tt.TokentapeError)):
                self.unexpected += 1
                self.note(f"{what}: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class Torture:
    """The settings of one attack."""

    folder: Path
    """An empty folder of its own."""
    size: float
    """10 has the numbers of the issue, 1 a tenth of them."""
    seed: int

    def count(self, at_ten: int) -> int:
        """Return how often to try what size 10 tries `at_ten` times; at least once."""
        return max(1, round(at_ten * self.size / 10))

    def random(self) -> random.Random:
        """Return a generator that depends on the seed only."""
        return random.Random(self.seed)


Attack = Callable[[Torture], Iterator[Row]]


def run_attacks(torture: Torture, *attacks: Attack) -> Iterator[Row]:
    """Run attacks, each in a folder of its own; one that cannot be run is a row as well."""
    for attack in attacks:
        name = attack.__name__.strip("_")
        folder = torture.folder / name
        folder.mkdir()
        try:
            yield from attack(Torture(folder, torture.size, torture.seed))
        except Exception as error:
            row = Row(f"{name}: could not be run", tried=1, unexpected=1)
            row.note(f"{type(error).__name__}: {error}")
            yield row
