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
    """The conversations of a file; each was read once without a fault."""

    def __init__(self, file: ForeignFile) -> None:
        self._file = file
        self._run_ids = [each.run_id for each in file]
        if not self._run_ids:
            raise StoreError(f"{file.where} has no conversation")

    def add_to(self, store: DatabaseStore) -> list[Imported]:
        """Add the conversations that the store lacks, each in one transaction.

        Raise StoreError, before anything is added, if the store erased one of them.
        """
        erased = store.erased_run_ids()
        for run_id in self._run_ids:
            if run_id in erased:
                store.check_not_erased(run_id)
        there = {each.run_id for each in store.summaries()}
        return [self._add(each, store, there) for each in self._file]

    def _add(
        self, conversation: ForeignConversation, store: DatabaseStore, there: set[str]
    ) -> Imported:
        """Add a conversation that is not `there`, and add its id to that."""
        run_id = conversation.run_id
        recording = record_conversation(conversation, self._file.where)
        added = run_id not in there
        if added:
            try:
                store.import_run(recording, NothingAttached())
            except StoreError:
                # Another process may have imported it at the same time.
                if store.summary(run_id) is None:
                    raise
                added = False
        there.add(run_id)
        # The events have the time of the import, and the seals with them.
        records = list((recording if added else store.recording(run_id)).records())
        return Imported(
            run_id=run_id,
            events=len(records),
            last_seal=records[-1].seal,
            added=added,
            added_events=len(records) if added else 0,
        )


def foreign_copy(path: Path, where: str = "") -> ForeignCopy | None:
    """Return the conversations of a log of Inspect or of lines of chat messages.

    None for any other file. `where` is how messages name the file; by default its path. Raise
    StoreError for a damaged one.
    """
    try:
        if is_inspect_log(path):
            return ForeignCopy(InspectLog(path, where))
        return ForeignCopy(ChatLines(path, where)) if has_chat_lines(path) else None
    except OSError:
        # The reader of the project's own files reports the fault.
        return None
