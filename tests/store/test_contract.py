"""Every kind of store returns exactly the events that it was given."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pytest

import tokentape as tt
from tests.store.made_runs import append_all
from tokentape.recorder import Record
from tokentape.recorder.codec import encode
from tokentape.recorder.events import RunStarted, TokenSampled, ToolReturned
from tokentape.store import DatabaseStore, ParquetStore, StoredFloor, StoredLabel, StoredVerdict
from tokentape.store.labels import Labels
from tokentape.store.source import Selection, Source

AnyStore = DatabaseStore | ParquetStore
FRAMES = (
    tt.runs_df,
    tt.events_df,
    tt.tokens_df,
    tt.turns_df,
    tt.cache_df,
    tt.messages_df,
    tt.interventions_df,
    tt.activations_df,
    tt.tools_df,
    tt.top_logprobs_df,
    tt.verdicts_df,
)
REPORT = {
    "reason": "turn 1, token 2: 'naïve' \u2028 🦜",
    "model": "tiny",
    "turns": [{"tokens": 3, "margins": [0.1, None, 2.5e-05], "margin_max": 0.1}],
    "floor": {"version": "float32-2026-11"},
}


LABELS: list[dict[str, Any]] = [
    {"at_us": 10**15, "label": "tag", "text": "naïve-🦜"},
    {"at_us": 10**15 + 1, "label": "note", "text": "first\n\tsecond \\ 'quoted'"},
    {"at_us": 10**15 + 2, "label": "tag", "text": "gone"},
    {"at_us": 10**15 + 3, "label": "untag", "text": "gone"},
    {"at_us": 10**15 + 4, "label": "tag", "text": "Baseline"},
]


def attached(run_id: str) -> tuple[list[StoredVerdict], list[StoredFloor]]:
    """Return verdicts and floors of a run, the oldest first."""
    verdicts = [
        StoredVerdict(
            run_id=run_id,
            at_us=10**15 + number * 1_000_001,
            replay=replay,
            verdict="verified",
            report=REPORT | {"duration_us": number * 10**9},
        )
        for number, replay in enumerate(("regenerate", "verify", "verify"))
    ]
    floor = {"margin_eps": 1e-3, "noise": [6e-06, 1 / 3]}
    return verdicts, [StoredFloor(run_id=run_id, at_us=10**15, version="mine", floor=floor)]


def keep_beside(store: DatabaseStore, run_id: str) -> None:
    """Add them out of order, and twice."""
    verdicts, floors = attached(run_id)
    for verdict in (*reversed(verdicts), *verdicts):
        store.add_verdict(verdict)
    for floor in (*floors, *floors):
        store.add_floor(floor)
    for label in (*reversed(LABELS), *LABELS):
        store.add_attachment(StoredLabel(run_id=run_id, **label))


class Spy:
    """A log that notes the events that a recorder appends."""

    def __init__(self, store: DatabaseStore) -> None:
        self._store = store
        self.given: list[tt.Envelope] = []

    def append(self, envelope: tt.Envelope, record: Record, **more: Any) -> None:
        self.given.append(envelope)
        self._store.append(envelope, record, **more)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._store.put_blob(sha256, payload)

    def recording(self, run_id: str) -> tt.Recording:
        return self._store.recording(run_id)


def copy_of(recording: tt.Recording, live: DatabaseStore, kind: str, folder: Path) -> AnyStore:
    """Return a store of that kind with a copy of the run."""
    if kind == "parquet":
        tt.export_parquet(recording, live, folder / "sealed")
        return tt.open_store(folder / "sealed")
    if kind == "objects":
        url = f"memory://{folder.name}/runs"
        tt.export_parquet(recording, live, url)
        return tt.open_store(url)
    if kind == "tape object":
        return tt.open_store(tt.pack([recording], live, f"memory://{folder.name}/run.tape"))
    if kind == "tape":
        tt.pack([recording], live, folder / "run.tape")
        return tt.open_store(folder / "run.tape")
    tt.export_jsonl([recording], live, folder / "run.jsonl")
    imported = tt.open_store(folder / "imported.db")
    assert isinstance(imported, DatabaseStore)
    tt.import_runs(folder / "run.jsonl", imported)
    return imported


@pytest.fixture(
    scope="module",
    params=[
        *("memory", "sqlite", "reopened", "postgresql"),
        *("parquet", "tape", "jsonl", "objects", "tape object"),
    ],
)
def kept(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_lm: Callable[..., tt.LoadedModel],
    record: Callable[..., tt.Recording],
) -> Iterator[tuple[AnyStore, list[tt.Envelope], str]]:
    """A store with one recording, for reading, and the events that were recorded."""
    folder, lm = tmp_path_factory.mktemp(request.param.replace(" ", "-")), make_lm("llama")
    where = "sqlite://" if request.param == "memory" else str(folder / "runs.db")
    if request.param == "postgresql":
        where = request.getfixturevalue("make_postgres_url")()
    live = tt.open_store(where)
    assert isinstance(live, DatabaseStore)
    spy = Spy(live)
    run_id = record(lm, spy).run_id
    keep_beside(live, run_id)
    store: AnyStore = live
    if request.param == "reopened":
        live.close()
        store = tt.open_store(where)
    if request.param in ("parquet", "tape", "jsonl", "objects", "tape object"):
        store = copy_of(live.recording(run_id), live, request.param, folder)
        live.close()
    yield store, spy.given, run_id
    store.close()


Kept = tuple[AnyStore, list[tt.Envelope], str]


def test_events_come_back_as_they_were_given(kept: Kept) -> None:
    store, given, run_id = kept

    assert list(store.recording(run_id).events()) == given
    assert list(store.recording(run_id).records()) == [encode(each) for each in given]
    assert sum(isinstance(each.event, TokenSampled) for each in given) >= 4


@pytest.mark.parametrize("kind", ["events", "tokens"])
def test_only_rows_after_a_seq_are_selected(kept: Kept, kind: str) -> None:
    store, given, run_id = kept
    read = store.events_table if kind == "events" else store.tokens_table
    everything = read(Selection(run_ids=(run_id,)))
    for after_seq in (-1, 0, len(given) // 2, len(given) - 2, len(given)):
        later = everything.filter(pc.greater(everything["seq"], after_seq)).to_pylist()

        assert read(Selection(run_ids=(run_id,), after_seq=after_seq)).to_pylist() == later
        assert read(Selection(after_seq=after_seq)).to_pylist() == later


def test_the_seals_hold_in_every_place(kept: Kept) -> None:
    store, given, run_id = kept
    found = tt.check(store, run_id)

    assert found.ok
    assert (found.sealed_turns, found.unsealed_events, found.events) == (4, 0, len(given))
    assert found.last_seal == given[-1].seal
    assert not tt.check(store, run_id, seal="blake2b-256:00").ok


def test_a_run_is_found_by_the_beginning_of_its_id(kept: Kept) -> None:
    store, _, run_id = kept

    assert store.recording(run_id[:10]).run_id == run_id
    with pytest.raises(tt.NoSuchRunError, match="has no run 'nothing'"):
        store.recording("nothing")
    with pytest.raises(tt.NoSuchRunError, match="has no run ''"):
        store.recording("")


def test_the_row_of_a_run_is_what_its_events_add_up_to(kept: Kept) -> None:
    store, given, run_id = kept
    (summary,) = store.summaries()
    finished = given[-1].event

    assert isinstance(given[0].event, RunStarted)
    assert (summary.run_id, summary.name, summary.status) == (run_id, "test", "finished")
    assert summary.turns == finished.turns == 4
    assert summary.generated_tokens == finished.generated_tokens
    assert summary.prompt_tokens == finished.prompt_tokens


def test_a_tools_payload_is_kept_under_its_sum(kept: Kept) -> None:
    store, given, _ = kept
    returned = next(each.event for each in given if isinstance(each.event, ToolReturned))

    assert b'"histogram"' in store.blob(returned.payload_sha256)
    with pytest.raises(tt.StoreError, match="has no blob"):
        store.blob("0" * 64)


def test_verdicts_and_floors_are_beside_the_run_in_every_place(kept: Kept) -> None:
    store, given, run_id = kept

    assert (store.verdicts(run_id), store.floors(run_id)) == attached(run_id)
    assert (store.verdicts("nothing"), store.floors(run_id[:-1])) == ([], [])
    assert len(list(store.recording(run_id).events())) == len(given)


def test_tags_and_the_note_are_those_of_the_run_in_every_place(kept: Kept) -> None:
    store, _, run_id = kept
    labels = Labels(tags=("Baseline", "naïve-🦜"), note=LABELS[1]["text"])

    assert store.labels(run_id) == [StoredLabel(run_id=run_id, **each) for each in LABELS]
    assert store.labels("nothing") == []
    assert store.labels_by_run() == {run_id: labels}
    (row,) = tt.runs_df(store).to_dict(orient="records")
    assert (row["tags"], row["note"]) == ("Baseline, naïve-🦜", labels.note)


def test_the_list_of_the_weights_is_kept_under_its_sum(kept: Kept, lm: tt.LoadedModel) -> None:
    store, given, _ = kept
    started = given[0].event
    assert isinstance(started, RunStarted)

    assert started.weights_listed
    assert store.blob(started.weights_sha256) == lm.identity.weights.payload


@pytest.mark.parametrize("frame", FRAMES)
def test_every_frame_has_the_same_rows_and_types(
    kept: Kept, frame: Callable[[Source], pd.DataFrame], store: DatabaseStore
) -> None:
    there, given, _ = kept
    append_all(store, given)
    keep_beside(store, given[0].run_id)

    pd.testing.assert_frame_equal(frame(there), frame(store))
    # Those are in a family; see `test_families`.
    rare = frame in (tt.interventions_df, tt.activations_df)
    assert (len(frame(there)) > 0) != rare
