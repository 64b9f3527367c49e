"""`tokentape.view`: the page of a run, in a notebook or as a file."""

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokentape.recorder import Recording
from tokentape.recorder.atomic_write import AtomicFile
from tokentape.recorder.given_recording import check_recording
from tokentape.recorder.paths import expand_path
from tokentape.recorder.short_forms import html_facts, short_repr
from tokentape.replay.results.errors import ReplayError
from tokentape.replay.view.document import view_document
from tokentape.replay.view.page import view_page
from tokentape.replay.view.stored import stored_document

if TYPE_CHECKING:
    from tokentape.replay import Report
    from tokentape.store import DatabaseStore, ParquetStore

_FRAME_HEIGHT_PX = 720
_FRAME_BYTES_MAX = 10_000_000
"""A larger page would make the notebook's file that much larger: it is only named."""
_BEGINNING = b"<!doctype html>"
_MARK = b'<meta name="generator" content="tokentape">'
_MARK_WITHIN_BYTES = 4096


@dataclass(frozen=True, repr=False)
class ViewPage:
    """A page that shows a run or a diff: one HTML file that needs no network."""

    document: Mapping[str, Any]
    """What the page shows, as docs/view-document.md describes it."""

    def html(self) -> str:
        """Return the text of the page; the same document gives the same text."""
        return self._html

    @cached_property
    def _html(self) -> str:
        return view_page(self.document)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, and return its path.

        Parent folders are created. Raise ReplayError if the file cannot be written, and if the path
        has anything but an earlier page.
        """
        return write_page(expand_path(path), self.html())

    def __repr__(self) -> str:
        return short_repr(self, *_named(self.document), f"{len(self.html().encode()):,} bytes")

    def _repr_html_(self) -> str:
        """Return a frame with the page, which can run its own script and reach nothing else."""
        page = self.html()
        size = len(page.encode())
        if size > _FRAME_BYTES_MAX:
            facts = [("bytes", f"{size:,}"), ("to look at it", "save it with .save(path)")]
            return html_facts(f"Page of {' and '.join(_named(self.document))}", facts)
        return (
            f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(page)}" title="tokentape" '
            f'style="width: 100%; height: {_FRAME_HEIGHT_PX}px; border: 0"></iframe>'
        )


def view(
    recording: Recording,
    *,
    store: "DatabaseStore | ParquetStore | None" = None,
    reports: "Mapping[str, Report] | None" = None,
) -> ViewPage:
    """Return the page of a run, which a notebook shows and `save` writes to a file.

    With `store`, the page also has the verdicts and labels that the store keeps of the run, and the
    tree of its forks. `reports` are further reports of replays, by what they are about. Raise
    RecordingError if the run cannot be read, and TypeError for a value that is no recording.

    Example:
        >>> import tokentape as tt
        >>> page = tt.view(store.recording(run_id), store=store)
        >>> page.save(tmp_path / "run.html").name
        'run.html'
        >>> [turn["turn"] for turn in page.document["turns"]]
        [1, 2, 3]
    """
    check_recording(recording)
    further = [(label, report.to_dict()) for label, report in (reports or {}).items()]
    if store is None:
        return ViewPage(view_document(recording, further_reports=further))
    return ViewPage(stored_document(store, recording, reports=further))


def write_page(path: Path, page: str) -> Path:
    """Write a page to a file, and return its path. Raise ReplayError as `ViewPage.save`."""
    try:
        target = path.resolve()
        if target.exists():
            _check_replaceable(path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with AtomicFile(target) as file:
            file.tmp_path.write_bytes(page.encode(errors="backslashreplace"))
            file.commit()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ReplayError(f"cannot write {path}: {reason}") from None
    return path


def check_page_path(path: Path) -> None:
    """Raise ReplayError if a path has anything but an empty file or an earlier page."""
    try:
        target = path.resolve()
        if target.exists():
            _check_replaceable(path, target)
    except (OSError, RuntimeError, ValueError) as error:
        raise ReplayError(f"cannot write {path}: {error}") from None


def _check_replaceable(path: Path, target: Path) -> None:
    if not target.is_file():
        raise ReplayError(f"cannot write {path}: it is not a file")
    with target.open("rb") as file:
        found = file.read(_MARK_WITHIN_BYTES)
    if found and not (found.startswith(_BEGINNING) and _MARK in found):
        raise ReplayError(
            f"{path} is there already, and is no page of a run: move it away, or give another name"
        )


def _named(document: Mapping[str, Any]) -> list[str]:
    """Return the ids of the runs that a document shows."""
    if document["kind"] == "diff":
        return [str(document[side]["run_id"]) for side in ("a", "b")]
    return [str(document["run"]["run_id"])]
