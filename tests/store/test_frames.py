"""Frames are typed and say what the events say."""

from collections.abc import Callable

import pandas as pd
import pytest

import tokentape as tt
from store import DatabaseStore


@pytest.fixture
def recorded(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording]
) -> tt.Recording:
    return record(lm, store)


def test_tokens_have_small_types_and_utc_times(
    recorded: tt.Recording, store: DatabaseStore
) -> None:
    frame = tt.tokens_df(store, recorded.run_id)

    assert frame["token_id"].dtype == "int32"
    assert frame["logprob"].dtype == "float32"
    assert str(frame["at"].dtype) == "datetime64[ns, UTC]"
    assert frame["position"].tolist() == [t.position for x in recorded.turns() for t in x.tokens]


def test_a_turn_row_joins_prompt_cache_sampling_and_reply(
    recorded: tt.Recording, store: DatabaseStore
) -> None:
    frame = tt.turns_df(store).set_index("turn")
    turns = {turn.number: turn for turn in recorded.turns()}

    assert frame.loc[1, "temperature"] is pd.NA
    assert frame.loc[2, "temperature"] == 0.8
    assert frame["do_sample"].tolist() == [False, True, False, True]
    assert frame["text"].tolist() == [turn.reply_text for turn in turns.values()]
    assert (frame["prompt_tokens"] == frame["reused_tokens"] + frame["computed_tokens"]).all()


def test_events_are_listed_in_order_with_their_kinds(
    recorded: tt.Recording, store: DatabaseStore
) -> None:
    frame = tt.events_df(store)

    assert frame["seq"].tolist() == list(range(len(frame)))
    assert frame["kind"].dtype == "category"
    assert (frame["kind"] == "TokenSampled").sum() == len(tt.tokens_df(store))


def test_a_tool_row_reads_like_the_call(recorded: tt.Recording, store: DatabaseStore) -> None:
    (row,) = tt.tools_df(store).itertuples()

    assert row.call == "get_weight_statistics(layer_name='model.embed_tokens.weight')"
    assert row.payload_tokens > 4 * row.content_tokens
    assert row.tensors == 1


@pytest.mark.parametrize(
    "frame", [tt.runs_df, tt.events_df, tt.tokens_df, tt.turns_df, tt.cache_df, tt.tools_df]
)
def test_an_empty_store_gives_empty_frames_with_their_columns(
    store: DatabaseStore, frame: Callable[..., pd.DataFrame]
) -> None:
    empty = frame(store)

    assert len(empty) == 0
    assert "run_id" in empty.columns
