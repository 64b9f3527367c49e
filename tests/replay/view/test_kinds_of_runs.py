"""Documents of forks, redacted, unfinished, hostile and damaged runs, and runs with tool calls."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.hostile import hostile
from tests.replay.made_talk import Said, talk_events
from tests.replay.test_rounds import CALL, opening
from tests.replay.view.documents import through_json, unpacked
from tests.tampering import without_triggers
from tokentape.recorder.events import MessageAdded, ToolReturned, TurnFinished
from tokentape.recorder.projections import join_rounds
from tokentape.replay.view import run_reading
from tokentape.replay.view.document import view_document
from tokentape.store import DatabaseStore, StoredVerdict


@pytest.fixture(scope="module")
def family(make_lm: Any) -> Iterator[tuple[DatabaseStore, list[str]]]:
    """Record a run with a tool call of the model, a fork within its reply, and a fork of that."""
    lm = make_lm("llama")
    tools = tt.default_tools(lm)
    with tt.open_store("sqlite://") as store:
        with tt.Investigation(
            lm, store=store, name="parent", system_prompt="Be kind.", tools=tools, seed=3
        ) as run:
            own = opening(lm, CALL)
            run.chat("Look.", max_new_tokens=160, logits_processor=own, do_sample=True)
            run.intervene(tt.Intervention.scale("louder", ["model.layers.1"], 1.5))
            run.watch([1])
            run.chat("And?", max_new_tokens=8, do_sample=True, top_k=4)
        runs = [run.run_id]
        for token in (3, 5):
            with tt.Investigation.fork(
                store, runs[-1], lm, at_turn=2, at_token=token, token="Z", tools=tools
            ) as fork:
                fork.chat("Go on.", max_new_tokens=4)
            runs.append(fork.run_id)
        yield store, runs


def _recorded(store: DatabaseStore, events: list[Any], **keywords: Any) -> tt.Recording:
    recorder = tt.Recorder(store, **keywords)
    for event in events:
        recorder.record(event)
    return store.recording(recorder.run_id)


def test_tokens_read_as_columns_and_as_events_give_the_same_document(
    family: tuple[DatabaseStore, list[str]],
    store: DatabaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recordings = [family[0].recording(each) for each in family[1]]
    cut = [Said(), Said(cut=True)]
    recordings.append(_recorded(store, talk_events(cut, ended=False)))
    recordings.append(_recorded(store, talk_events([Said()]), redactor=lambda text: text.upper()))
    as_events = [view_document(replace(each, read_tokens=None)) for each in recordings]

    def refused(*_: object) -> None:
        raise AssertionError("read as events")

    monkeypatch.setattr(run_reading, "load_run", refused)

    assert [view_document(each) for each in recordings] == as_events


@pytest.mark.parametrize(("last_kind", "tokens"), [("TurnFinished", 3), ("PrefillCompleted", 6)])
def test_tokens_that_are_recorded_while_a_run_is_read_are_left_out_after_a_gap(
    store: DatabaseStore, last_kind: str, tokens: int
) -> None:
    recording = _recorded(store, talk_events([Said(), Said()], ended=False))
    records = list(recording.read())
    kinds = [each.kind for each in records]
    last = kinds.index(last_kind, 0 if tokens == 3 else kinds.index("TurnFinished"))
    early = [each for each in records if each.seq <= last]

    document = view_document(replace(recording, select=lambda chosen: chosen.of(early)))

    assert document["tokens"]["count"] == tokens
    assert document["run"]["last_seq"] == (last if tokens == 3 else last + 3)
    assert [each["status"] for each in document["turns"]] == ["finished", "running"][: tokens // 3]


def test_a_fork_names_the_run_that_it_shares_turns_with(
    family: tuple[DatabaseStore, list[str]],
) -> None:
    store, (parent, child, grandchild) = family

    document = through_json(view_document(store.recording(grandchild)))

    turns = document["turns"]
    assert [each["shared_with"] for each in turns] == [parent, None, None]
    assert [each["shared_tokens"] for each in turns] == [turns[0]["tokens"], 5, 0]
    assert document["run"]["parent"] == {"run_id": child, "turn": 2, "token": 5}
    forced = unpacked(document["tokens"])["forced"]
    begin = turns[1]["first_token"]
    assert forced[begin : begin + 6].tolist() == [0, 0, 0, 1, 0, 1]
    expected = join_rounds(store.recording(grandchild).turns())
    assert [each["rounds"][-1]["text"] for each in turns[1:]] == [
        each.reply_text for each in expected[1:]
    ]


def test_a_call_of_the_model_is_in_its_round_and_its_result_in_the_next_prompt(
    family: tuple[DatabaseStore, list[str]],
) -> None:
    store, (parent, *_) = family

    document = through_json(view_document(store.recording(parent)))

    first, second = document["turns"][0]["rounds"]
    (call,) = first["calls"]
    assert (call["caller"], call["name"]) == ("model", "get_weight_statistics")
    assert call["step"] == first["tokens"]
    assert json.loads(call["result"]["payload"])["histogram"]
    assert (first["stop_reason"], second["calls"]) == ("tool_call", [])
    shown = [part for part in second["parts"] if part["tool_call_id"] == call["call_id"]]
    assert [part["text"] for part in shown] == [call["result"]["content"]]
    assert document["turns"][0]["tokens"] == first["tokens"] + second["tokens"]
    assert document["turns"][0]["unreplayable"]


def test_interventions_and_activations_are_placed_on_tokens(
    family: tuple[DatabaseStore, list[str]],
) -> None:
    store, (parent, *_) = family

    document = through_json(view_document(store.recording(parent)))

    turn = document["turns"][1]
    first, last = turn["first_token"], turn["first_token"] + turn["tokens"] - 1
    (track,) = document["interventions"]
    assert track["spans"] == [{"turn": 2, "first_token": first, "last_token": last}]
    assert [each["turn"] for each in track["prompt_spans"]] == [2]
    rows = [each["first_token"] for each in document["activations"] if each["name"] == "decode"]
    assert rows == list(range(first, first + len(rows)))
    assert rows
    assert "louder" in turn["inside_model"]


def test_a_run_that_goes_on_has_an_open_turn_and_what_waits_for_the_next(
    store: DatabaseStore,
) -> None:
    events = talk_events([Said(), Said(cut=True)], ended=False)
    coming = MessageAdded(role="user", content="Next?", text="Next? ", ids=(78,))

    open_turn = view_document(_recorded(store, events))
    waiting = view_document(_recorded(store, [*talk_events([Said()], ended=False), coming]))

    assert [each["status"] for each in open_turn["turns"]] == ["finished", "running"]
    assert open_turn["run"]["status"] == "running"
    assert open_turn["turns"][1]["rounds"][0]["text"] is None
    assert open_turn["run"]["last_seq"] == len(events) - 1
    assert waiting["pending"]["parts"][0]["text"] == "Next?"


def test_a_pruned_round_says_what_was_removed_and_where_the_cache_ends(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    messages = [f"Say it once more, for the {number}. time. " * 3 for number in range(4)]
    with tt.Investigation(
        lm,
        store=store,
        name="pruned",
        system_prompt="Be kind.",
        context_budget_tokens=400,
        at_context_limit="prune_turns",
    ) as run:
        for message in messages:
            run.chat(message, max_new_tokens=6)

    document = through_json(view_document(store.recording(run.run_id)))

    rounds = [turn["rounds"][0] for turn in document["turns"]]
    assert [each["pruned"] is not None for each in rounds] == [False, False, True, True]
    for number in (2, 3):
        shown, oldest = rounds[number], messages[number - 2]
        removed = shown["pruned"]["removed"]
        assert [each["role"] for each in removed] == ["user", "assistant"]
        assert removed[0]["text"] == oldest
        cache = shown["cache"]
        assert (cache["decision"], cache["reason"]) == ("partial", "token_divergence")
        assert cache["old_token"]["text"] == str(number - 2)
        assert cache["new_token"]["text"] == str(number - 1)
        assert f"for the {number - 1}. time." in cache["divergence_text"]


def test_a_failed_run_says_its_error_and_cuts_its_turn_off(store: DatabaseStore) -> None:
    document = view_document(_recorded(store, talk_events([Said(), Said(cut=True)])))

    assert document["run"]["status"] == "failed"
    assert document["run"]["error"] == "KeyboardInterrupt"
    assert document["turns"][1]["status"] == "cut off"


def test_a_redacted_run_has_no_ids_and_no_commands(store: DatabaseStore) -> None:
    recording = _recorded(store, talk_events([Said()]), redactor=lambda text: text.upper())

    document = through_json(view_document(recording))

    assert (unpacked(document["tokens"])["token_id"] == -1).all()
    assert document["go_on"]["fork"] == document["go_on"]["verify"] == []
    assert "redacted" in document["go_on"]["note"]
    assert document["turns"][0]["rounds"][0]["text"] == "SO."


def test_hostile_texts_are_the_same_after_json(store: DatabaseStore) -> None:
    text = hostile("x")
    events = []
    for event in talk_events([Said(tool='{"a": 1}')]):
        if isinstance(event, TurnFinished):
            event = replace(event, text=text)
        elif isinstance(event, ToolReturned):
            event = replace(event, content=text, error=text, traceback=text)
        elif isinstance(event, MessageAdded):
            event = replace(event, content=text)
        events.append(event)
    report = {"verdict": "diverged", "reason": text + "\ud83d", "causes": [{"sentence": text}]}

    document = through_json(
        view_document(_recorded(store, events), further_reports=[(text, report)])
    )

    shown = document["turns"][0]["rounds"][0]
    assert shown["text"] == text
    assert shown["calls"][0]["result"]["traceback"] == text
    (verdict,) = document["verdicts"]
    assert (verdict["label"], verdict["reason"]) == (text, text + "\ud83d")


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"verdict": []},
        {"verdict": "diverged", "turns": 5, "divergences": {"a": 1}, "causes": [1, None]},
        {"verdict": "verified", "turns": [{"turn": True, "tokens": 1e400, "verdict": 3}]},
        {"verdict": "diverged", "divergences": [{"turn": "x", "recorded": [], "step": 2**70}]},
        {"verdict": "diverged", "floor": {"a": float("nan")}, "altered": [3, "x"]},
        [],
    ],
)
def test_a_malformed_report_is_left_out_or_read_as_far_as_it_goes(
    store: DatabaseStore, report: Any
) -> None:
    document = through_json(
        view_document(
            _recorded(store, talk_events([Said()])), further_reports=[("a stranger's", report)]
        )
    )

    assert len(document["verdicts"]) + len(document["problems"]) == 1


def test_a_stored_verdict_names_the_row_of_its_divergence(store: DatabaseStore) -> None:
    recording = _recorded(store, talk_events([Said(), Said()]))
    report = {"verdict": "diverged", "divergences": [{"turn": 2, "step": 1, "kind": "token"}]}
    stored = StoredVerdict(
        run_id=recording.run_id, at_us=5, replay="verify", verdict="diverged", report=report
    )

    document = view_document(recording, verdicts=[stored])

    (verdict,) = document["verdicts"]
    assert verdict["divergences"][0]["token"] == document["turns"][1]["first_token"] + 1
    assert (verdict["at_us"], verdict["passes"]) == (5, False)


def test_a_missing_token_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(f"sqlite:///{path}") as store:
        run_id = _recorded(store, talk_events([Said()])).run_id
    with closing(sqlite3.connect(path)) as connection, without_triggers(connection):
        connection.execute("DELETE FROM tokens WHERE step = 1")

    with tt.open_store(path) as store, pytest.raises(tt.RecordingError, match="event is missing"):
        view_document(store.recording(run_id))
