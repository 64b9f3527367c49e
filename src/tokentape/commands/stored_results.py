"""Results of replays that a live store keeps beside a run."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import tokentape as tt
from tokentape.commands.options import Store
from tokentape.recorder.clock import now_us
from tokentape.screen import err

if TYPE_CHECKING:
    from tokentape.replay import Report


def store_verdict(report: "Report", opened: Store) -> None:
    """Store the verdict of a replay with its run, if the store is live; report why it is not."""
    from tokentape.replay.checking.fingerprint_check import without_places
    from tokentape.store import DatabaseStore, StoredVerdict

    if isinstance(opened, DatabaseStore):
        stored = StoredVerdict(
            run_id=report.run_id,
            at_us=now_us(),
            replay=report.replay,
            verdict=report.verdict,
            report=report.to_dict() | {"repro": without_places(report.repro)},
        )
        try_to_store("verdict", lambda: opened.add_verdict(stored))


def try_to_store(what: str, write: Callable[[], None]) -> None:
    """Report a store that cannot be written to; the replay itself has succeeded."""
    try:
        write()
    except tt.StoreError as error:
        err.line(f"tokentape: the {what} is not stored: {error}")
