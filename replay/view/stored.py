"""The document of a run together with what its store keeps about it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tokentape import store as stores
from tokentape.recorder import Recording
from tokentape.recorder.projections.lineage_tree import lineage_of
from tokentape.replay.view.document import view_document
from tokentape.replay.view.vocabulary import Spell
from tokentape.store.errors import StoreError
from tokentape.store.labels import Labels, fold_labels

if TYPE_CHECKING:
    from tokentape.store import DatabaseStore, ParquetStore

LabelledReport = tuple[str, Mapping[str, Any]]
"""What a report is about, and the report as `Report.to_dict` returns it."""


def stored_document(
    store: "DatabaseStore | ParquetStore",
    recording: Recording,
    *,
    reports: Sequence[LabelledReport] = (),
    tokens_from: int = 0,
    payloads: bool = True,
    spell: Spell | None = None,
) -> dict[str, Any]:
    """Return the document of a run with its verdicts, its labels and the tree of its forks.

    A damaged verdict or label is left out: `check` reports it. Raise as `view_document`.
    """
    run_id = recording.run_id
    verdicts: Sequence[Any] = ()
    labels: Labels | None = None
    with suppress(StoreError):
        verdicts = store.verdicts(run_id)
    with suppress(StoreError):
        labels = fold_labels(store.labels(run_id)).get(run_id)
    return view_document(
        recording,
        verdicts=verdicts,
        labels=labels,
        lineage=_lineage(store, run_id),
        further_reports=reports,
        tokens_from=tokens_from,
        payloads=payloads,
        spell=spell,
    )


def _lineage(store: "DatabaseStore | ParquetStore", run_id: str) -> dict[str, object] | None:
    """Return the tree of `tokentape show --tree --json`; None if the store has no such run."""
    try:
        family = lineage_of(run_id, store.summaries())
    except KeyError:
        return None
    runs = list(family.summaries())
    return family.as_json(stores.errors_of(store, runs), stores.forks_of(store, runs))
