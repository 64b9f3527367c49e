"""The documents that pages fetch from a server, made from a store when they are wanted."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from tokentape import store as stores
from tokentape.recorder import Recording
from tokentape.recorder.record import RecordFilter
from tokentape.replay.view.diff_document import diff_document
from tokentape.replay.view.json_values import HEAD
from tokentape.replay.view.stored import stored_document
from tokentape.replay.view_server.spelled_ids import SpelledIds
from tokentape.store.errors import StoreError
from tokentape.store.labels import Labels
from tokentape.store.run_conditions import RunConditions
from tokentape.store.source import Selection

if TYPE_CHECKING:
    from tokentape.recorder.projections import RunSummary
    from tokentape.store import DatabaseStore, ParquetStore

_CONDITIONS = tuple(get_type_hints(RunConditions))
_LISTED = 100
_LISTED_MAX = 10_000
_PAYLOAD_CHARS_MAX = 2_000_000


class StoredRuns:
    """The runs of a store as a server shows them. Its methods are called in several threads."""

    def __init__(
        self,
        store: "DatabaseStore | ParquetStore",
        served: Mapping[str, Any],
        reports: Sequence[tuple[str, Mapping[str, Any]]] = (),
        spelled: SpelledIds | None = None,
    ) -> None:
        """`served` is what documents say of the server; `reports` are further reports by label.

        `spelled` has the texts of the ids that a running run has not recorded yet.
        """
        self._store = store
        self._served = dict(served)
        self._reports = tuple(reports)
        self._spelled = spelled

    def listed(self, query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return the newest runs that fulfil the conditions of a query, the newest first.

        The conditions are those of `tokentape list`; `last` is the most runs to return. Raise
        StoreError for a condition that cannot be read.
        """
        given = {name: [each for each in query.get(name, ()) if each] for name in _CONDITIONS}
        where = {
            name: values if name == "tag" else values[-1]
            for name, values in given.items()
            if values
        }
        last = [each for each in query.get("last", ()) if each.isascii() and each.isdigit()]
        limit = min(int(last[-1][:9]), _LISTED_MAX) if last else _LISTED
        found = self._store.summaries(**cast(RunConditions, where))
        shown = found[-limit:] if limit else []
        return HEAD | {
            "kind": "runs",
            "where": self._store.where,
            "query": where,
            "count": len(found),
            "runs": self._rows(list(reversed(shown))),
            "served": self._served,
        }

    def _rows(self, shown: "list[RunSummary]") -> list[dict[str, Any]]:
        statuses = stores.status_texts(self._store, shown)
        tool_errors = stores.count_tool_errors(self._store, [each.run_id for each in shown])
        labels = self._store.labels_by_run()
        return [
            {
                "run_id": each.run_id,
                "name": each.name,
                "model": each.model,
                "status": statuses.get(each.run_id, each.status),
                "started_at_us": each.started_at_us,
                "turns": each.turns,
                "tokens": each.generated_tokens,
                "tool_errors": tool_errors.get(each.run_id, 0),
                "tags": list(labels.get(each.run_id, Labels()).tags),
                "note": labels.get(each.run_id, Labels()).note,
                "parent_run_id": each.parent_run_id,
                "forked_at_turn": each.forked_at_turn,
                "has_shared_turns": each.has_shared_turns,
            }
            for each in shown
        ]

    def run(self, named: str, tokens_from: int, version: str | None) -> dict[str, Any] | None:
        """Return the document of a run, without payloads, with the tokens from an index on.

        Return None if it is still the `version` that the page shows. Raise NoSuchRunError for an
        unknown run, and for one that was erased.
        """
        recording = self._store.recording(named)
        # Before the document: an event recorded in between is found by the next request.
        newest = self._version(recording)
        if version == newest:
            return None
        document = stored_document(
            self._store,
            recording,
            reports=self._reports,
            tokens_from=tokens_from,
            payloads=False,
            spell=None if self._spelled is None else self._spelled.texts,
        )
        return document | {"served": self._served | {"version": newest}}

    def _version(self, recording: Recording) -> str:
        """Return a text that changes with the run: its last event, its status, its verdicts.

        It also changes when a tokenizer was loaded, which may spell the ids of the run.
        """
        run_id = recording.run_id
        newest = next(iter(recording.selected(RecordFilter(newest=1))), None)
        summary = self._store.summary(run_id)
        status = "" if summary is None else stores.status_texts(self._store, [summary])[run_id]
        chosen = Selection(run_ids=(run_id,), columns=("run_id",))
        verdicts = self._store.verdicts_table(chosen).num_rows
        spelled = 0 if self._spelled is None else self._spelled.changes
        found = (-1 if newest is None else newest.seq, verdicts, status, spelled)
        return hashlib.sha256(repr(found).encode()).hexdigest()[:16]

    def payload(self, named: str, sha256: str) -> dict[str, str]:
        """Return a payload of a run as text, or a note that says why it is not shown.

        Raise StoreError if the store does not have it.
        """
        recording = self._store.recording(named)
        if recording.read_blob is None:
            raise StoreError("the payloads of this run cannot be read")
        payload = recording.read_blob(sha256)
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            return {"text": "", "note": f"binary, {len(payload):,} bytes"}
        if len(text) > _PAYLOAD_CHARS_MAX:
            note = f"the first {_PAYLOAD_CHARS_MAX:,} of {len(text):,} characters"
            return {"text": text[:_PAYLOAD_CHARS_MAX], "note": note}
        return {"text": text, "note": ""}

    def diff(self, a: str, b: str) -> dict[str, Any]:
        """Return the document of the differences of two runs. Raise NoSuchRunError."""
        document = diff_document(self._store.recording(a), self._store.recording(b))
        return document | {"served": self._served}
