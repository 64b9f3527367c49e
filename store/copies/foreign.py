"""Import of conversations of other programs into a live store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tokentape.store.copies.chat_lines import ChatLines, has_chat_lines
from tokentape.store.copies.conversations import (
    ForeignConversation,
    NothingAttached,
    record_conversation,
)
from tokentape.store.copies.imported import Imported
from tokentape.store.copies.inspect_logs import InspectLog, is_inspect_log
from tokentape.store.errors import StoreError
from tokentape.store.live.database import DatabaseStore


class ForeignFile(Protocol):
    """A file of conversations; each iteration reads it again."""

    where: str

    def __iter__(self) -> Iterator[ForeignConversation]:
        """Yield the conversations. Raise StoreError for damage."""


class ForeignCopy:
    """The conversations of a file, all of which can be read."""

    def __init__(self, file: ForeignFile) -> None:
        self._file = file
        self._run_ids = [each.run_id for each in file]
        if not self._run_ids:
            raise StoreError(f"{file.where} has no conversation")

    def add_to(self, store: DatabaseStore) -> list[Imported]:
        """Add the conversations that the store lacks, each in one transaction.

        Raise StoreError, before anything is added, if the store erased one of them.
        """
        for run_id in self._run_ids:
            store.check_not_erased(run_id)
        return [_add(each, self._file.where, store) for each in self._file]


def foreign_copy(path: Path, where: str = "") -> ForeignCopy | None:
    """Return the conversations of a log of Inspect or of lines of chat messages.

    None for any other file. `where` is how messages name the file; by default its path. Raise StoreError for a damaged one.
    """
    try:
        if is_inspect_log(path):
            return ForeignCopy(InspectLog(path, where))
        return ForeignCopy(ChatLines(path, where)) if has_chat_lines(path) else None
    except OSError:
        # What reads the project's own files says what is wrong.
        return None


def _add(conversation: ForeignConversation, where: str, store: DatabaseStore) -> Imported:
    recording = record_conversation(conversation, where)
    events = sum(1 for _ in recording.records())
    added = store.summary(recording.run_id) is None
    if added:
        try:
            store.import_run(recording, NothingAttached())
        except StoreError:
            # Another process may have imported it at the same time.
            if store.summary(recording.run_id) is None:
                raise
            added = False
    ours = store.recording(recording.run_id)
    seal = None
    for record in ours.records():
        seal = record.seal or seal
    return Imported(
        run_id=recording.run_id,
        events=events,
        last_seal=seal,
        added=added,
        added_events=events if added else 0,
    )
