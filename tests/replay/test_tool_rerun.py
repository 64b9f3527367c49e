"""Recorded tool calls are run again, and their results compared field by field."""

import hashlib
import signal
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from tests.made_events import run_started
from tests.replay.copies import Change, altered_copy, change_bodies
from tokentape.recorder.events import MessageAdded, ToolCalled, ToolReturned
from tokentape.replay.checking.tool_rerun import (
    describe_drift,
    drift_size,
    rerun_tools,
)
from tokentape.replay.recorded.loaded_run import load_run
from tokentape.replay.recorded.tool_contradictions import tool_contradictions
from tokentape.replay.results.json_fields import MISSING
from tokentape.replay.results.report import ToolDrift
from tokentape.store import DatabaseStore

LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def use(store: DatabaseStore) -> Callable[..., tt.Recording]:
    """Record a call of every given function, as an investigation does, but without a model."""

    def run(*functions: Callable[..., Any], redactor: tt.Redactor | None = None) -> tt.Recording:
        tools = tt.ToolInterface(functions)
        with tt.Recorder(store, redactor=redactor) as recorder:
            recorder.record(run_started())
            for function in functions:
                name, call_id = function.__name__, f"call_{function.__name__}"
                recorder.record(ToolCalled(call_id=call_id, name=name, arguments={}))
                result = tools.call(name, {})
                recorder.record(
                    ToolReturned(
                        call_id=call_id,
                        name=name,
                        content=result.content,
                        content_tokens=1,
                        payload_sha256=hashlib.sha256(result.payload).hexdigest(),
                        payload_bytes=len(result.payload),
                        payload_tokens=1,
                        tensors=result.tensors,
                        error=result.error,
                        duration_us=1_000,
                    )
                )
        return store.recording(recorder.run_id)

    return run


def tool(value: Any, name: str = "look") -> Callable[..., Any]:
    """Return a tool that returns a value, or raises it if it is an exception."""

    def look() -> Any:
        """
        Look.
        """
        if isinstance(value, BaseException):
            raise value
        return value

    look.__name__ = name
    return look


def fields(drifts: tuple[ToolDrift, ...]) -> list[tuple[str, str, str]]:
    return [(each.field, each.recorded, each.replayed) for each in drifts]


def test_the_same_model_gives_the_same_results(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording]
) -> None:
    recording = record(lm, store, tokens=2)

    assert rerun_tools(recording, tt.default_tools(lm)) == ()
    assert tool_contradictions(load_run(recording)) == []


def test_a_changed_weight_drifts_in_the_fields_that_it_changes(
    lm: tt.LoadedModel, store: DatabaseStore, altered: Callable[..., tt.LoadedModel]
) -> None:
    tools = tt.default_tools(lm)
    with tt.Investigation(lm, store=store, name="t", system_prompt="Hi.", tools=tools) as run:
        for layer in (LAYER, "model.norm.weight"):
            call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})
            run.chat("Look.", tool_calls=[call], max_new_tokens=1)
    louder = altered(lm, lambda model: model.get_parameter(LAYER).mul_(2))
    drifts = rerun_tools(store.recording(run.run_id), tt.default_tools(louder))
    found = {each.field: each for each in drifts}

    assert {each.turn for each in drifts} == {1}
    assert {each.call_id for each in drifts} == {"call_1"}
    assert set(found) == {
        *(f"content.{name}" for name in ("mean", "std", "min", "max", "l2_norm")),
        "payload_sha256",
        f'tensors."{LAYER}".sha256',
    }
    maximum = lm.model.get_parameter(LAYER).max().item()
    assert drift_size(found["content.max"]) == pytest.approx(maximum, rel=1e-3)
    assert drift_size(found["payload_sha256"]) is None
    assert describe_drift(found["content.max"]) == (
        "turn 1, get_weight_statistics (call_1): content.max was 0.8668, is 1.734 (+0.8672)"
    )


def test_a_tool_that_is_gone_has_drifted_in_its_error_alone(
    use: Callable[..., tt.Recording],
) -> None:
    recording = use(tool({"seen": 1}))
    drifts = rerun_tools(recording, tt.ToolInterface([tool({"seen": 1}, "glance")]))

    assert fields(drifts) == [("error", "null", "\"there is no tool 'look'; there are glance\"")]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (ZeroDivisionError("of all things"), "ZeroDivisionError('of all things')"),
        (SystemExit("enough"), "SystemExit('enough')"),
        (KeyboardInterrupt(), "KeyboardInterrupt()"),
        ({1, 2}, "not JSON serializable"),
        (float("nan"), "not JSON compliant"),
    ],
    ids=repr,
)
def test_a_tool_that_fails_today_has_drifted(
    use: Callable[..., tt.Recording], value: Any, complaint: str
) -> None:
    recording = use(tool({"seen": 1}))
    (drift,) = rerun_tools(recording, tt.ToolInterface([tool(value)]))

    assert (drift.field, drift.recorded) == ("error", "null")
    assert complaint in drift.replayed


def test_an_error_that_is_still_the_same_is_no_drift(use: Callable[..., tt.Recording]) -> None:
    failing = tool(tt.ToolError("there is no such layer"))
    recording = use(failing)

    assert rerun_tools(recording, tt.ToolInterface([failing])) == ()
    assert fields(rerun_tools(recording, tt.ToolInterface([tool({"seen": 1})]))) == [
        ("error", '"there is no such layer"', "null")
    ]


def test_a_tool_that_hangs_is_left_behind(use: Callable[..., tt.Recording]) -> None:
    released = threading.Event()

    def look() -> str:
        """
        Look.
        """
        released.wait()
        return "late"

    recording = use(tool("soon"), tool(5, "other"))
    tools = tt.ToolInterface([look, tool(6, "other")])
    try:
        drifts = rerun_tools(recording, tools, seconds_max=0.05)
    finally:
        released.set()

    assert fields(drifts)[0] == ("error", "null", '"no answer within 0.05 s"')
    assert ("content", '"5"', '"6"') in fields(drifts)


@pytest.mark.parametrize(
    ("recorded", "replayed", "found"),
    [
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [("content.a.b.1", "2", "3")]),
        ({"a": 1}, {"a": 1.0}, [("content.a", "1", "1.0")]),
        ({"a": 1}, {"a": True}, [("content.a", "1", "true")]),
        ({"a": 0.0}, {"a": -0.0}, [("content.a", "0.0", "-0.0")]),
        ({"a": 1}, {}, [("content.a", "1", MISSING)]),
        ([], [None], [("content.0", MISSING, "null")]),
        ({"m.w": 1}, {"m.w": 2}, [('content."m.w"', "1", "2")]),
        ({"a": [1]}, {"a": {"0": 1}}, [("content.a", "[1]", '{"0": 1}')]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, [("content", *2 * ("{",))]),
        ("one", "two", [("content", '"\\"one\\""', '"\\"two\\""')]),
    ],
    ids=repr,
)
def test_a_difference_is_named_by_its_field(
    use: Callable[..., tt.Recording], recorded: Any, replayed: Any, found: list[Any]
) -> None:
    drifts = rerun_tools(use(tool(recorded)), tt.ToolInterface([tool(replayed)]))
    contents = [each for each in fields(drifts) if each[0] != "payload_sha256"]

    assert len(drifts) == len(found) + 1
    for (field, *sides), (expected, *values) in zip(contents, found, strict=True):
        assert field == expected
        # Equal JSON in another order is shown as the text that the model read.
        assert all(value in side for side, value in zip(sides, values, strict=True))


def test_long_texts_are_shown_around_their_difference(use: Callable[..., tt.Recording]) -> None:
    long = "x" * 10_000
    (drift, _) = rerun_tools(use(tool(f"{long}a{long}")), tt.ToolInterface([tool(f"{long}b")]))

    assert "xa" in drift.recorded
    assert "xb" in drift.replayed
    assert len(drift.recorded) < 1000


def test_a_result_as_deep_as_json_goes_is_compared(use: Callable[..., tt.Recording]) -> None:
    def nested(value: Any) -> Any:
        for _ in range(500):
            value = [value]
        return value

    drifts = rerun_tools(use(tool(nested(1))), tt.ToolInterface([tool(nested(2))]))

    assert fields(drifts)[0] == ("content" + 500 * ".0", "1", "2")


def test_tensors_that_are_no_json_are_an_error_of_the_tool(
    use: Callable[..., tt.Recording],
) -> None:
    view = tt.ToolView(view=1, payload=1, tensors=({"name": "w", "shape": [2]},))
    torn = replace(view, tensors=({"name": "w", "shape": object()},))
    none: Any = replace(view, tensors=None)  # type: ignore[arg-type]
    recording = use(tool(view))

    sized = replace(view, tensors=({"name": "w", "shape": torch.tensor([2])},))

    assert rerun_tools(recording, tt.ToolInterface([tool(view)])) == ()
    assert rerun_tools(recording, tt.ToolInterface([tool(sized)])) == ()
    for changed, shown in ((torn, "not JSON serializable"), (none, "not iterable")):
        (drift,) = rerun_tools(recording, tt.ToolInterface([tool(changed)]))
        assert drift.field == "error"
        assert shown in drift.replayed


def test_only_the_turns_that_are_asked_for_run_again(recorded: Path) -> None:
    gone = tt.ToolInterface([])
    with tt.open_store(recorded) as store:
        recording = store.recording(store.summaries()[0].run_id)

        assert [each.turn for each in rerun_tools(recording, gone)] == [2]
        assert rerun_tools(recording, gone, turns=[1, 3]) == ()


def test_tools_of_a_redacted_run_are_not_called(use: Callable[..., tt.Recording]) -> None:
    recording = use(tool("secret"), redactor=lambda text: text.replace("secret", "…"))

    with pytest.raises(tt.NothingToReplayError, match="was redacted"):
        rerun_tools(recording, tt.ToolInterface([tool("secret")]))


def test_a_call_that_was_interrupted_contradicts_nothing(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    interrupted, released = threading.Event(), threading.Event()

    def look() -> str:
        """
        Look.
        """
        main = threading.main_thread().ident
        if main is not None and not interrupted.is_set():
            interrupted.set()
            signal.pthread_kill(main, signal.SIGINT)
            released.wait(60.0)
        return "at last"

    tools = tt.ToolInterface([look])
    run = tt.Investigation(lm, store=store, name="t", system_prompt="Hi.", tools=tools)
    call = tt.ToolCall(name="look", arguments={})
    with pytest.raises(KeyboardInterrupt), run:
        run.chat("Look.", tool_calls=[call], max_new_tokens=1)
    released.set()
    recording = store.recording(run.run_id)

    assert tool_contradictions(load_run(recording)) == []
    assert rerun_tools(recording, tools) == ()


FORGERIES: Mapping[str, tuple[type, Change, str]] = {
    "what the tool returned": (
        ToolReturned,
        lambda body: body.update(content=body["content"].replace("0.", "7.")),
        "the model was shown another result of get_weight_statistics (call_1)",
    ),
    "what the model was shown": (
        MessageAdded,
        lambda body: body.update(content="nothing"),
        'content is "nothing", returned ',
    ),
    "the call it answers": (
        ToolReturned,
        lambda body: body.update(call_id="call_9"),
        "(call_9) answers a call that was not made",
    ),
    "the message it stands in": (
        MessageAdded,
        lambda body: body.update(tool_call_id="call_9"),
        "the result of call_9, a call that was not made",
    ),
    "the tool": (
        ToolCalled,
        lambda body: body.update(name="get_nothing"),
        "answers a call of get_nothing",
    ),
    "the size of the payload": (
        ToolReturned,
        lambda body: body.update(payload_bytes=3),
        "not the 3 that the tool returned",
    ),
    "which payload": (
        ToolReturned,
        lambda body: body.update(payload_sha256="0" * 64),
        "cannot be read",
    ),
}


@pytest.fixture(scope="module")
def recorded(
    make_lm: Callable[..., tt.LoadedModel],
    record: Callable[..., tt.Recording],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("tools") / "runs.db"
    with tt.open_store(path) as store:
        record(make_lm("llama"), store, tokens=1)
    return path


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_tampered_result_contradicts_the_rest(recorded: Path, forgery: str) -> None:
    cls, change, sentence = FORGERIES[forgery]
    copy = altered_copy(
        recorded,
        lambda connection: change_bodies(
            connection,
            cls.__name__,
            change,
            lambda body: cls is not MessageAdded or body["tool_call_id"] is not None,
        ),
    )
    with tt.open_store(copy) as store:
        found = tool_contradictions(load_run(store.recording(store.summaries()[0].run_id)))

    assert {turn for turn, _ in found} == {2}
    assert any(sentence in said for _, said in found)


def test_a_payload_that_is_another_one_is_named(recorded: Path) -> None:
    def flip(connection: sqlite3.Connection) -> None:
        of_a_tool = (
            "sha256 IN (SELECT json_extract(body, '$.payload_sha256') FROM events "
            "WHERE kind = 'ToolReturned')"
        )
        query = f"SELECT payload FROM blobs WHERE {of_a_tool}"
        ((payload,),) = connection.execute(query).fetchall()
        connection.execute(
            f"UPDATE blobs SET payload = ? WHERE {of_a_tool}", (payload[:-1] + b"!",)
        )

    with tt.open_store(altered_copy(recorded, flip)) as store:
        recording = store.recording(store.summaries()[0].run_id)
        ((turn, sentence),) = tool_contradictions(load_run(recording))

        without = tt.Recording(recording.run_id, recording.read)
        assert tool_contradictions(load_run(without)) == []
    assert turn == 2
    assert "does not have its recorded sha256" in sentence
