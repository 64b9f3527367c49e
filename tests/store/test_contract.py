"""What a store gives back equals what it was given, in whatever form it is kept."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

import tokentape as tt
from recorder.events import RunStarted, TokenSampled, ToolReturned
from store import DatabaseStore, ParquetStore
from store.frames import FrameSource

AnyStore = DatabaseStore | ParquetStore
FRAMES = (tt.runs_df, tt.events_df, tt.tokens_df, tt.turns_df, tt.cache_df, tt.tools_df)


@pytest.fixture(params=["memory", "file", "reopened", "parquet"])
def kept(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    lm: tt.LoadedModel,
    record: Callable[..., tt.Recording],
) -> Iterator[tuple[AnyStore, list[tt.Envelope], str]]:
    """A store with one recording, and the events as they were handed to it."""
    where = "sqlite://" if request.param == "memory" else str(tmp_path / "runs.db")
    given: list[tt.Envelope] = []
    live = tt.open_store(where)
    assert isinstance(live, DatabaseStore)
    append = live.append

    def spy(envelope: tt.Envelope, *, durable: bool) -> None:
        given.append(envelope)
        append(envelope, durable=durable)

    live.append = spy  # type: ignore[method-assign]
    recording = record(lm, live)
    store: AnyStore = live
    if request.param == "reopened":
        live.close()
        store = tt.open_store(where)
    if request.param == "parquet":
        tt.export_parquet(recording, live, tmp_path / "sealed")
        live.close()
        store = tt.open_store(tmp_path / "sealed")
    yield store, given, recording.run_id
    store.close()


Kept = tuple[AnyStore, list[tt.Envelope], str]


def test_events_come_back_as_they_were_given(kept: Kept) -> None:
    store, given, run_id = kept

    assert list(store.recording(run_id).events()) == given
    assert sum(isinstance(each.event, TokenSampled) for each in given) >= 4


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


@pytest.mark.parametrize("frame", FRAMES)
def test_every_frame_has_the_same_rows_and_types(
    kept: Kept, frame: Callable[[FrameSource], pd.DataFrame], store: DatabaseStore
) -> None:
    there, given, _ = kept
    for envelope in given:
        store.append(envelope, durable=False)

    pd.testing.assert_frame_equal(frame(there), frame(store))
    assert len(frame(there)) > 0
