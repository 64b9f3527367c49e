"""The tags and the note of a run, folded from the labels that were added to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tokentape.recorder.clock import now_us
from tokentape.store.attachments import StoredLabel
from tokentape.store.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The tags and the note of a run."""

    tags: tuple[str, ...] = ()
    """In alphabetical order."""
    note: str = ""

    @property
    def joined_tags(self) -> str:
        """The tags in one text, separated by a comma and a space."""
        return ", ".join(self.tags)


class LabelRow(Protocol):
    """A label with the run that it belongs to."""

    @property
    def run_id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def text(self) -> str: ...


def fold_labels(rows: Iterable[LabelRow]) -> dict[str, Labels]:
    """Return the tags and notes of runs, by run id.

    `rows` are ordered by time: the last one about a tag decides, and so does the last note. Rows
    whose values are not text, as in a forged file, are left out.
    """
    tags: dict[str, dict[str, bool]] = {}
    notes: dict[str, str] = {}
    for row in rows:
        if not all(isinstance(each, str) for each in (row.run_id, row.label, row.text)):
            continue
        if row.label == "note":
            notes[row.run_id] = row.text
        else:
            tags.setdefault(row.run_id, {})[row.text] = row.label == "tag"
    return {
        run_id: Labels(
            tags=tuple(sorted(tag for tag, is_set in tags.get(run_id, {}).items() if is_set)),
            note=notes.get(run_id, ""),
        )
        for run_id in dict.fromkeys([*tags, *notes])
    }


def new_labels(
    run_id: str, stored: Sequence[StoredLabel], label: str, texts: Iterable[str]
) -> list[StoredLabel]:
    """Return the labels to add, later than those that a run has; none that changes nothing.

    Raise StoreError for a tag or a note that cannot be stored, and for a tag to remove that the run
    does not have.
    """
    now = fold_labels(stored).get(run_id, Labels())
    # The clock may have been set back.
    at_us = max([now_us(), *(each.at_us + 1 for each in stored)])
    found: list[StoredLabel] = []
    for text in dict.fromkeys(texts):
        new = StoredLabel(run_id=run_id, at_us=at_us + len(found), label=label, text=text)
        if label == "untag" and text not in now.tags:
            has = f"its tags are {now.joined_tags}" if now.tags else "it has none"
            raise StoreError(f"run {run_id} has no tag {text!r}: {has}")
        if text != now.note if label == "note" else (text in now.tags) == (label == "untag"):
            found.append(new)
    return found
