"""What to verify of which store, and the outcomes: plain values that processes exchange."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokentape.recorder import TokentapeError
from tokentape.replay.results.report import Floor, Report

_UNEXPECTED_EXIT_CODE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """One run of a store, or all of its runs."""

    store: str
    """A path or a URL."""
    run_id: str | None = None
    """None for all runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkSettings:
    """How to verify many runs."""

    model: str | None = None
    """Name of the model; None for the recorded ones."""
    loading: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `load_model` that override the recorded settings."""
    floor: Floor | None = None
    """None for the built-in one, or else that stored with a run."""
    ignore: tuple[str, ...] = ()
    """Fingerprints that may differ."""
    interventions: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOutcome:
    """The report on a run, or why there is none."""

    store: str
    run_id: str = ""
    """Empty if the store could not be read."""
    name: str = ""
    report: Report | None = None
    is_live: bool = False
    """Whether the store is a database, which keeps verdicts."""
    error: str = ""
    error_exit_code: int = 0
    """The exit code of a command that ends with this error; 0 for a report."""

    @property
    def where(self) -> str:
        """The run in the words of the command line: `STORE#RUN`."""
        return f"{self.store}#{self.run_id}" if self.run_id else self.store


def failed(source: RunSource, error: Exception, *, run_id: str = "", name: str = "") -> BulkOutcome:
    """Return the outcome of a run, or of a store, that cannot be verified."""
    text, exit_code = " ".join(str(error).split()), _UNEXPECTED_EXIT_CODE
    if isinstance(error, TokentapeError):
        exit_code = error.exit_code
    else:
        text = f"unexpected {type(error).__name__}: {text}"
    return BulkOutcome(
        store=source.store,
        run_id=run_id or source.run_id or "",
        name=name,
        error=text,
        error_exit_code=exit_code,
    )
