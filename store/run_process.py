"""The process that records a run, and the end of a run whose process is gone."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tokentape.recorder import Recorder, Recording, RecordingError
from tokentape.recorder.codec import decode_body
from tokentape.recorder.escapes import visible
from tokentape.recorder.events import RunResumed, RunStarted
from tokentape.recorder.process import ProcessState, state_of
from tokentape.recorder.projections import RunSummary
from tokentape.store.errors import StoreError
from tokentape.store.live.database import DatabaseStore
from tokentape.store.source import Selection, Source

_KINDS = (RunStarted.__name__, RunResumed.__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProcess:
    """The process that a run without an end was last recorded by."""

    state: ProcessState
    host: str
    """Empty if the recording does not name its process, as those of version 0.1.0."""
    pid: int | None
    last_event_at_us: int
    """Microseconds since 1970."""

    @property
    def label(self) -> str:
        """The status of the run in a table."""
        notes = {ProcessState.ALIVE: "", ProcessState.GONE: " (process gone)"}
        return f"running{notes.get(self.state, ' (unknown here)')}"

    def describe(self) -> str:
        """Return a line about the process and its last event."""
        process = "its process" if self.pid is None else f"its process {self.pid}"
        if self.state is ProcessState.ALIVE:
            where = f"{process} runs on this machine"
        elif self.state is ProcessState.GONE:
            where = f"{process} on this machine is gone"
        elif self.host:
            where = f"{process} on {visible(self.host)} is unknown on this machine"
        else:
            where = "its process is not recorded"
        return f"{where}; last event {self._last_event_at():%Y-%m-%d %H:%M:%S} UTC"

    def as_json(self) -> dict[str, Any]:
        """Return the fields as `--json` prints them."""
        return {
            "state": str(self.state),
            "host": self.host,
            "pid": self.pid,
            "last_event_at": self._last_event_at().isoformat(),
        }

    def _last_event_at(self) -> datetime:
        return datetime.fromtimestamp(self.last_event_at_us / 1e6, UTC)


def process_of(source: Source, summary: RunSummary) -> RunProcess | None:
    """Return the process of a run, or None if the run has ended.

    Only the events that begin and resume the run are read.
    """
    if summary.status != "running":
        return None
    chosen = Selection(run_ids=(summary.run_id,), kinds=_KINDS)
    process: dict[str, Any] = {}
    for row in source.events_table(chosen).to_pylist()[-1:]:
        # A damaged run is shown as one whose process is not recorded.
        with suppress(RecordingError):
            event = decode_body(row["kind"], row["version"], row["body"])
            process = dict(getattr(event, "process", {}))
    return RunProcess(
        state=state_of(process),
        host=str(process.get("host", "")),
        pid=process.get("pid"),
        last_event_at_us=source.last_event_at_us(summary.run_id),
    )


def close_run(store: DatabaseStore, recording: Recording, *, force: bool = False) -> RunProcess:
    """End a run whose process is gone, with `RunFailed`. It can be resumed like any other.

    Raise StoreError if the run has ended and, unless `force`, if its process runs or is unknown
    here; a process that still records the run fails at its next event.
    """
    run_id = recording.run_id
    summary = store.summary(run_id)
    process = None if summary is None else process_of(store, summary)
    if summary is None or process is None:
        ended = recording.ended()
        status = "" if ended is None else f": {visible(ended.status_text)}"
        raise StoreError(f"run {run_id} has ended{status}")
    if process.state is not ProcessState.GONE and not force:
        raise StoreError(f"run {run_id} may still be recorded, {process.describe()}: give --force")
    pid = "" if process.pid is None else f" {process.pid}"
    how = "is gone" if process.state is ProcessState.GONE else "may still have run (--force)"
    Recorder.resume(store, recording).close(f"closed with `tokentape close`: process{pid} {how}")
    return process
