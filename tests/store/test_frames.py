"""Frames are typed, agree with the events, and read only the selected columns."""

import datetime
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tokentape as tt
from tests.store.conftest import ODD_TEXT, odd_run, token, turn_started
from tokentape.recorder.events import TokenSampled, ToolReturned
from tokentape.store import DatabaseStore
from tokentape.store.arrow import TOKENS
from tokentape.store.frames.columns import FRAMES
from tokentape.store.source import Selection

Frame = Callable[..., pd.DataFrame]
Record = Callable[[DatabaseStore], list[str]]
BY_TURN = [name for name in FRAMES if name not in ("runs_df", "verdicts_df")]
BACKENDS = (None, "numpy_nullable", "pyarrow")


def frame_of(name: str) -> Frame:
    frame: Frame = getattr(tt, name)
    return frame


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
    assert str(frame["at"].dtype) == "datetime64[us, UTC]"
    assert frame["position"].tolist() == [t.position for x in recorded.turns() for t in x.tokens]
    durations = [t.duration_us for x in recorded.turns() for t in x.tokens]
    assert frame["duration_us"].tolist() == durations


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
    assert frame["tool_results"].tolist() == [0, 1, 0, 0]
    assert frame["tool_tokens"].sum() == tt.tools_df(store)["content_tokens"].sum() > 0


def test_a_turn_that_was_cut_off_has_a_row_without_an_end(
    store: DatabaseStore, record_oddities: Record
) -> None:
    run_id, *_ = record_oddities(store)
    frame = tt.turns_df(store, run_id).set_index("turn")

    assert frame.index.tolist() == [1, 2]
    assert frame.loc[2, ["reused_tokens", "generated_tokens", "stop_reason", "text"]].isna().all()
    assert frame.loc[1, "text"] == ODD_TEXT
    assert frame.loc[2, ["tool_results", "tool_tokens", "pruned_tokens"]].tolist() == [2, 5, 2]
    assert frame.loc[2, "temperature"] is pd.NA


def test_events_are_listed_in_order_with_their_kinds_turns_and_seals(
    recorded: tt.Recording, store: DatabaseStore
) -> None:
    frame = tt.events_df(store)
    envelopes = list(recorded.events())

    assert frame["seq"].tolist() == list(range(len(frame)))
    assert frame["kind"].tolist() == [type(each.event).__name__ for each in envelopes]
    assert frame["turn"].astype(object).where(frame["turn"].notna(), None).tolist() == [
        each.turn for each in envelopes
    ]
    assert frame["seal"].dropna().tolist() == [each.seal for each in envelopes if each.seal]
    assert frame["at"].iloc[-1] == pd.Timestamp(envelopes[-1].at_us, unit="us", tz="UTC")
    assert (frame["kind"] == "TokenSampled").sum() == len(tt.tokens_df(store))


def test_a_tool_row_reads_like_the_call(recorded: tt.Recording, store: DatabaseStore) -> None:
    (row,) = tt.tools_df(store).itertuples()
    (returned,) = (e.event for e in recorded.events() if isinstance(e.event, ToolReturned))

    assert row.call == "get_weight_statistics(layer_name='model.embed_tokens.weight')"
    assert row.payload_tokens > 4 * row.content_tokens
    assert row.tensors == 1
    assert row.turn == 2
    assert store.blob(str(row.payload_sha256)) == store.blob(returned.payload_sha256)


def test_a_verdict_row_adds_up_the_turns_of_its_report(
    store: DatabaseStore, record_oddities: Record
) -> None:
    run_id, *_ = record_oddities(store)
    whole, nothing, wrong = tt.verdicts_df(store, run_id).itertuples(index=False)

    assert (whole.at, whole.replay, whole.verdict) == (
        *(pd.Timestamp(10**18, tz="UTC"), "regenerate", "near_tie"),
    )
    texts = (whole.reason, whole.model, whole.floor_version)
    assert texts == (ODD_TEXT.replace("\x00", "\ufffd"),) * 3
    assert (whole.turns, whole.tokens, whole.mismatches, whole.near_ties) == (2, 6, 2, 0)
    assert whole.logprob_difference_max == 3.2782554626464844e-06
    assert whole.margin_max == 0.12345678901234567
    assert whole.duration_us == 1_234_568
    known = ("replay", "verdict", "run_id", "at")
    assert all(pd.isna(getattr(nothing, each)) for each in whole._fields if each not in known)
    assert wrong.turns == 2
    assert wrong.margin_max == 0.0
    missing = ("reason", "model", "floor_version", "tokens", "mismatches", "near_ties")
    assert all(pd.isna(getattr(wrong, name)) for name in (*missing, "duration_us"))


def test_candidates_are_ranked_and_the_greedy_choice_is_the_first(
    recorded: tt.Recording, store: DatabaseStore
) -> None:
    frame = tt.top_logprobs_df(store, turns=1)
    sampled = [each.event for each in recorded.events() if isinstance(each.event, TokenSampled)]
    first = frame[frame["rank"] == 0]

    assert first["token_id"].tolist() == [t.token_id for t in sampled if t.turn == 1]
    assert frame["rank"].tolist() == list(range(5)) * len(first)
    assert frame["logprob"].tolist() == [
        each for t in sampled if t.turn == 1 for each in t.top_logprobs
    ]
    assert frame.groupby("step")["logprob"].agg(lambda each: each.is_monotonic_decreasing).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FRAMES)
def test_an_empty_frame_has_the_columns_and_types_of_a_full_one(
    store: DatabaseStore, record_oddities: Record, name: str, backend: Any
) -> None:
    blank = frame_of(name)(store, dtype_backend=backend)
    record_oddities(store)
    full = frame_of(name)(store, dtype_backend=backend)
    none_chosen = frame_of(name)(store, [], dtype_backend=backend)

    assert list(blank.columns) == FRAMES[name].names
    assert [str(each) for each in blank.dtypes] == [str(each) for each in full.dtypes]
    assert len(blank) == 0 < len(full)
    pd.testing.assert_frame_equal(none_chosen, blank)


@pytest.mark.parametrize("name", FRAMES)
def test_the_three_kinds_of_types_hold_the_same_values(
    store: DatabaseStore, record_oddities: Record, name: str
) -> None:
    record_oddities(store)

    def values(backend: Any) -> list[list[Any]]:
        frame = frame_of(name)(store, dtype_backend=backend).astype(object)
        return frame.where(frame.notna(), None).to_numpy().tolist()

    plain, nullable, arrow = map(values, BACKENDS)
    assert plain == nullable == arrow
    types = {str(each) for each in frame_of(name)(store, dtype_backend="pyarrow").dtypes}
    assert all(each.endswith("[pyarrow]") for each in types)


def test_another_dtype_backend_is_refused(store: DatabaseStore) -> None:
    with pytest.raises(tt.StoreError, match="'pyarrow', not 'polars'"):
        tt.tokens_df(store, dtype_backend="polars")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_has_the_columns_that_were_asked_for_in_that_order(
    store: DatabaseStore, record_oddities: Record, name: str
) -> None:
    record_oddities(store)
    whole = frame_of(name)(store)
    for columns in ([whole.columns[-1], whole.columns[1]], ["run_id"], list(whole.columns)[::-1]):
        pd.testing.assert_frame_equal(frame_of(name)(store, columns=columns), whole[columns])
    for column in whole.columns:
        pd.testing.assert_frame_equal(frame_of(name)(store, columns=column), whole[[column]])


@pytest.mark.parametrize("name", FRAMES)
def test_an_unknown_column_is_refused_with_those_that_there_are(
    store: DatabaseStore, name: str
) -> None:
    known = ", ".join(FRAMES[name].names)
    with pytest.raises(tt.StoreError, match=f"no column 'body', 'x'; there are {known}"):
        frame_of(name)(store, columns=["run_id", "body", "x"])


@pytest.mark.parametrize("name", BY_TURN)
def test_turns_that_are_chosen_are_those_of_the_whole(
    store: DatabaseStore, record_oddities: Record, name: str
) -> None:
    record_oddities(store)
    whole = frame_of(name)(store)
    for asked, wanted in (
        *((1, [1]), ([2], [2]), (np.array([1, 2]), [1, 2]), (np.int64(2), [2])),
        *((range(2, 9), [2]), ([], []), (77, [])),
    ):
        chosen = whole[whole["turn"].isin(wanted)].reset_index(drop=True)
        found = frame_of(name)(store, turns=asked)

        pd.testing.assert_frame_equal(
            found.astype(object), chosen.astype(object), check_column_type=False
        )


@pytest.mark.parametrize("name", FRAMES)
def test_runs_are_chosen_by_the_beginning_of_an_id_or_several(
    store: DatabaseStore, record_oddities: Record, name: str
) -> None:
    first, second, *_ = record_oddities(store)
    whole = frame_of(name)(store)
    for asked, ids in (
        (first, [first]),
        (first[:-1], [first]),
        ([second, first[:-2], first], [first, second]),
    ):
        chosen = whole[whole["run_id"].isin(ids)].reset_index(drop=True)
        found = frame_of(name)(store, asked)

        pd.testing.assert_frame_equal(found.astype(object), chosen.astype(object))
    for unknown in ("unknown", ["unknown"], first[:2], ""):
        with pytest.raises(tt.NoSuchRunError):
            frame_of(name)(store, unknown)


def test_only_what_is_asked_for_is_read(
    store: DatabaseStore, record_oddities: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = record_oddities(store)
    asked: list[Selection] = []
    read = store.tokens_table

    def noted(selection: Selection) -> Any:
        asked.append(selection)
        table = read(selection)
        assert "top_ids" not in table.column_names
        return table

    monkeypatch.setattr(store, "tokens_table", noted)
    frame = tt.tokens_df(store, first, turns=1, columns=["step", "duration_us"])

    assert asked == [Selection(run_ids=(first,), turns=(1,), columns=("step", "duration_us"))]
    assert {"run_id", "seq", "at"} | {"step", "duration_us"} >= set(
        read(asked[0]).column_names
    ) - set(TOKENS.names[:3])
    assert frame["duration_us"].tolist() == frame["step"].tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frame_is_ones_own_to_change(
    store: DatabaseStore, record_oddities: Record, backend: Any
) -> None:
    record_oddities(store)
    frame = tt.tokens_df(store, dtype_backend=backend)
    frame.loc[0, "logprob"] = -2.0
    frame.loc[0, "run_id"] = "mine"
    frame["step"] += 1
    frame.loc[0, "at"] = pd.Timestamp(0, tz=datetime.UTC)

    assert frame.loc[0, ["logprob", "run_id", "step"]].tolist() == [-2.0, "mine", 1]
    assert tt.tokens_df(store, dtype_backend=backend).loc[0, "step"] == 0


def test_two_thousand_runs_come_by_id_and_are_chosen_alone(store: DatabaseStore) -> None:
    run_ids = []
    for number in reversed(range(2000)):
        now_us = iter(range(10**15 + number * 10**6, 10**16))
        recorder = tt.Recorder(store, clock_us=now_us.__next__)
        recorder.record(odd_run(f"run {number}"))
        recorder.record(turn_started(1, sampling={}))
        recorder.record(token(1, 0, token_id=number))
        run_ids.append(recorder.run_id)
    tokens = tt.tokens_df(store)

    assert tokens["run_id"].tolist() == sorted(run_ids)
    assert tokens["token_id"].tolist() == list(range(2000))
    assert tt.runs_df(store)["name"].tolist() == [f"run {number}" for number in range(2000)]
    events = tt.events_df(store)
    assert events["run_id"].tolist() == [each for each in sorted(run_ids) for _ in range(3)]
    assert events["seq"].tolist() == [0, 1, 2] * 2000
    assert len(tt.turns_df(store, run_ids)) == 2000
    assert tt.tokens_df(store, run_ids[3])["token_id"].tolist() == [1996]


def test_a_damaged_body_is_named(tmp_path: Any, record_oddities: Record) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        run_id, *_ = record_oddities(store)
        with store._engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER events_refuse_update")
            connection.exec_driver_sql("UPDATE events SET body = '{' WHERE kind = 'CacheDecided'")
        seq = tt.events_df(store, run_id).query("kind == 'CacheDecided'")["seq"].iloc[0]
        with pytest.raises(tt.RecordingError, match=f"run {run_id}, event {seq} is damaged"):
            tt.cache_df(store)


@pytest.mark.parametrize(
    ("kind", "field", "names"),
    [
        ("TokensSpelled", '"texts":{', ("tokens_df", "top_logprobs_df")),
        ("MessageAdded", '"role":', ("messages_df",)),
        ("InterventionApplied", '"layers":[', ("interventions_df",)),
        ("ActivationObserved", '"statistics":{', ("activations_df",)),
        ("RunStarted", '"environment":{', ("runs_df",)),
        ("ToolReturned", '"error":', ("runs_df",)),
    ],
)
def test_damage_is_reported_by_the_frames_that_read_the_event_and_by_no_other(
    tmp_path: Any, record_oddities: Record, kind: str, field: str, names: tuple[str, ...]
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        record_oddities(store)
        with store._engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER events_refuse_update")
            damage = "UPDATE events SET body = replace(body, ?, ?) WHERE kind = ?"
            connection.exec_driver_sql(damage, (field, f'"gone{field[1:]}', kind))
        for name in names:
            with pytest.raises(tt.RecordingError, match="is damaged"):
                frame_of(name)(store)
        for name in ("tokens_df", "runs_df"):
            assert len(frame_of(name)(store, columns=[FRAMES[name].names[0]])) > 0


@pytest.mark.parametrize("texts", [{"1": 5}, {"x": "a"}, {"1": None}, {str(2**40): "a"}, ["a"]])
def test_texts_that_no_frame_can_hold_are_damage(
    tmp_path: Any, record_oddities: Record, texts: Any
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        record_oddities(store)
        body = json.dumps({"turn": 1, "texts": texts})
        with store._engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER events_refuse_update")
            change = "UPDATE events SET body = ? WHERE kind = 'TokensSpelled'"
            connection.exec_driver_sql(change, (body,))
        with pytest.raises(tt.RecordingError, match="damaged"):
            tt.tokens_df(store)
