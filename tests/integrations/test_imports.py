"""Conversations of other programs become runs that are marked as without tokens."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokentape as tt
from tests.hostile import hostile, raw_characters
from tokentape.recorder.events import MessageDetailsImported
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
BROKEN = {"id": "c2", "type": "function", "function": {"name": "look", "arguments": '{"at": '}}
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Look."},
    {"role": "assistant", "content": None, "tool_calls": [CALL, BROKEN]},
    {"role": "tool", "tool_call_id": "c1", "content": "42"},
    {"role": "assistant", "content": "It is 42.", "name": "adder"},
    {"role": "user", "content": "Thanks."},
]
TOKEN = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}
PAIR = {
    "request": {"model": "m", "messages": [{"role": "user", "content": "q"}], "temperature": 0.5},
    "response": {
        "model": "m-1",
        "created": 1_700_000_000,
        "choices": [
            {
                "message": {"role": "assistant", "content": "Hi"},
                "finish_reason": "stop",
                "logprobs": {"content": [TOKEN]},
            },
            {"message": {"role": "assistant", "content": "Or"}},
        ],
        "usage": {"completion_tokens": 1},
    },
}


def lines(path: Path, *values: Any) -> Path:
    path.write_text("\n".join(json.dumps(each) for each in values) + "\n", encoding="utf-8")
    return path


def imported(store: DatabaseStore, path: Path) -> list[tt.Recording]:
    return [store.recording(each.run_id) for each in tt.import_runs(path, store)]


def details(recording: tt.Recording) -> list[MessageDetailsImported]:
    events = [each.event for each in recording.events()]
    return [each for each in events if isinstance(each, MessageDetailsImported)]


def test_a_line_of_messages_is_a_conversation_without_tokens(
    store: DatabaseStore, tmp_path: Path
) -> None:
    path = lines(tmp_path / "chats.jsonl", {"id": "a", "messages": TALK, "tools": [{"x": 1}]})
    (run,) = imported(store, path)
    origin = run.imported()

    assert [(each.role, each.content) for each in run.messages()] == [
        (each["role"], each["content"] or "") for each in TALK
    ]
    assert origin is not None
    assert (origin.format, origin.source, origin.line) == ("openai", "chats.jsonl", 1)
    assert origin.metadata == {"id": "a", "tools": [{"x": 1}]}
    calls, said = details(run)
    assert [each["arguments"] for each in calls.tool_calls] == [{"at": 1}, {}]
    assert calls.tool_calls[1]["arguments_text"] == '{"at": '
    assert said.details == {"name": "adder"}


def test_frames_show_that_there_are_no_tokens(store: DatabaseStore, tmp_path: Path) -> None:
    (run,) = imported(store, lines(tmp_path / "chats.jsonl", TALK))
    (row,) = tt.runs_df(store).to_dict("records")

    assert (row["status"], row["turns"], row["generated_tokens"]) == ("imported", 0, 0)
    assert row["name"] == "chats:1"
    messages = tt.messages_df(store, run.run_id)
    assert messages["tokens"].isna().all()
    assert messages["turn"].tolist() == [1, 1, 1, 1, 1, 2]
    assert len(tt.tokens_df(store)) == len(tt.turns_df(store)) == 0
    assert len(tt.runs_df(store, status="imported")) == 1
    assert len(tt.runs_df(store, said="42")) == 1


@pytest.mark.parametrize(
    "value",
    [
        TALK,
        {"messages": TALK},
        {"custom_id": "x", "method": "POST", "body": {"model": "m", "messages": TALK}},
        {"request": {"messages": TALK}, "response": None},
    ],
)
def test_the_usual_forms_of_a_line_are_read(
    value: Any, store: DatabaseStore, tmp_path: Path
) -> None:
    (run,) = imported(store, lines(tmp_path / "x.jsonl", value))

    assert len(run.messages()) == len(TALK)


def test_a_pair_of_request_and_response_has_the_reply_and_what_is_known_of_it(
    store: DatabaseStore, tmp_path: Path
) -> None:
    (run,) = imported(store, lines(tmp_path / "x.jsonl", PAIR))
    (reply,) = details(run)
    origin = run.imported()

    assert [each.content for each in run.messages()] == ["q", "Hi"]
    assert reply.logprobs == (TOKEN,)
    assert reply.details["stop_reason"] == "stop"
    assert len(reply.details["other_choices"]) == 1
    assert run.started().model == "m-1"
    assert origin is not None
    assert origin.created == "2023-11-14T22:13:20+00:00"


def test_pictures_are_named_and_left_out(store: DatabaseStore, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "See "}, {"type": "image_url", "image_url": {"url": "data:"}}]
    (run,) = imported(store, lines(tmp_path / "x.jsonl", [{"role": "user", "content": parts}]))

    assert run.messages()[0].content == "See [image_url]"
    assert details(run)[0].details == {"left_out": ["image_url"]}


def test_importing_a_file_again_adds_only_what_is_new(store: DatabaseStore, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", TALK, PAIR, TALK)
    first = tt.import_runs(path, store)
    lines(path, PAIR, [{"role": "user", "content": "new"}], TALK)
    again = tt.import_runs(path, store)

    assert [each.added for each in first] == [True, True, False]
    assert [each.added for each in again] == [False, True, False]
    assert len(store.summaries()) == 3


def test_two_imports_at_once_add_each_conversation_once(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", *([{"role": "user", "content": str(n)}] for n in range(40)))
    added: list[bool] = []

    def add() -> None:
        with tt.open_store(tmp_path / "runs.db") as opened:
            assert isinstance(opened, DatabaseStore)
            added.extend(each.added for each in tt.import_runs(path, opened))

    tt.open_store(tmp_path / "runs.db").close()
    threads = [threading.Thread(target=add) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert (len(added), sum(added)) == (80, 40)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"messages": [', "is not JSON"),
        ('{"messages": 3}', "is no conversation"),
        ('{"messages": [{"role": "wizard"}]}', r"messages\[0\]: the role is one of"),
        ('{"messages": [{"role": "tool"}]}', r"messages\[0\]: a tool's message has a tool_call_id"),
        ('[{"messages": []}]', "is a list of conversations"),
        ('{"messages": [3]}', r"messages\[0\]: a message is an object"),
        ('{"messages": [{"role": "user", "content": NaN}]}', "is not JSON"),
        ("[" * 10_000 + "]" * 10_000, "is not JSON: its values are nested too deeply"),
        ('{"messages": [], "response": {"choices": [1]}}', "is no conversation"),
        ("\ufffd", "is not JSON"),
        ('"text"', "is no conversation"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_added(
    line: str, fault: str, store: DatabaseStore, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(TALK)}\n\n{line}\n", encoding="utf-8")

    with pytest.raises(tt.StoreError, match=f"x.jsonl, line 3.*{fault}") as caught:
        tt.import_runs(path, store)

    assert "\n" not in str(caught.value)
    assert store.summaries() == []


def test_line_ends_and_a_mark_of_windows_are_read(store: DatabaseStore, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{json.dumps(TALK)}\r\n\r\n{json.dumps(PAIR)}".encode())

    assert len(tt.import_runs(path, store)) == 2


def test_hostile_texts_command_no_terminal(tmp_path: Path, cli: Cli) -> None:
    evil = hostile("said")
    call = {"id": evil, "type": "function", "function": {"name": evil, "arguments": "{"}}
    talk = [
        {"role": "user", "content": evil + "\ud800\0"},
        {"role": "assistant", "content": evil, "tool_calls": [call], evil: evil},
        {"role": "tool", "tool_call_id": evil, "content": evil},
    ]
    path = lines(tmp_path / "x.jsonl", {"id": evil, "model": evil, "messages": talk})
    at = ("--store", str(tmp_path / "runs.db"))

    for command in (("import", str(path)), ("list",), ("show",), ("tail", "--no-follow")):
        code, printed, message = cli(*command, *at)
        assert code == 0, message
        assert raw_characters(printed + message) == set()


@settings(max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text()},
            optional={"extra": st.recursive(st.none() | st.integers() | st.text(), st.lists)},
        ),
        max_size=5,
    )
)
def test_what_was_said_comes_back(talk: list[dict[str, Any]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder, tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        (run,) = imported(store, lines(Path(folder) / "x.jsonl", {"messages": talk}))

        assert run.conversation() == [
            {
                "role": each["role"],
                "content": each["content"].encode("utf-8", "backslashreplace").decode(),
            }
            for each in talk
        ]
        assert tt.check(store, run.run_id).ok


@pytest.mark.parametrize("command", ["rebuild", "verify", "retrace", "regenerate"])
def test_a_replay_has_nothing_to_replay(command: str, tmp_path: Path, cli: Cli) -> None:
    at = ("--store", str(tmp_path / "runs.db"))
    cli("import", str(lines(tmp_path / "x.jsonl", TALK)), *at)

    code, printed, message = cli(command, *at)

    assert (code, printed) == (5, "")
    assert message.endswith(" has no tokens: it was imported from x.jsonl, line 1\n")


@pytest.mark.parametrize(
    "command", [("resume",), ("fork", "chats", "--at-turn", "1", "--message", "x")]
)
def test_it_is_neither_resumed_nor_forked(
    command: tuple[str, ...], tmp_path: Path, cli: Cli
) -> None:
    at = ("--store", str(tmp_path / "runs.db"))
    talk = {"id": "chats", "messages": TALK}
    cli("import", str(lines(tmp_path / "x.jsonl", talk)), *at)

    code, _, message = cli(*command, *at)

    assert code == 2
    assert "has no tokens: it was imported from x.jsonl, line 1" in message


def test_python_refuses_as_the_commands_do(
    lm: tt.LoadedModel, store: DatabaseStore, tmp_path: Path
) -> None:
    (run,) = imported(store, lines(tmp_path / "x.jsonl", TALK))

    for replay in (tt.verify, tt.retrace, tt.regenerate):
        with pytest.raises(tt.NothingToReplayError, match="has no tokens"):
            replay(run, lm)
    for going_on in (
        lambda: tt.Investigation.resume(store, run.run_id, lm),
        lambda: tt.Investigation.fork(store, run.run_id, lm, at_turn=1),
    ):
        with pytest.raises(tt.RecordingError, match="has no tokens"):
            going_on()


def test_list_and_show_say_that_it_was_imported(tmp_path: Path, cli: Cli) -> None:
    at = ("--store", str(tmp_path / "runs.db"))
    cli("import", str(lines(tmp_path / "x.jsonl", TALK)), *at)

    assert "imported" in cli("list", *at)[1]
    shown = cli("show", *at)[1]
    assert "imported from    x.jsonl, line 1, without tokens" in shown
    assert "tool: 42" in shown
    assert 'calls look {"at": 1}' in shown
    found = json.loads(cli("show", "--json", *at)[1])
    assert (found["status"], found["imported"]["format"]) == ("imported", "openai")


@pytest.mark.parametrize("name", ["copy.tape", "copy.jsonl", "folder"])
def test_copies_keep_it(name: str, store: DatabaseStore, tmp_path: Path) -> None:
    (run,) = imported(store, lines(tmp_path / "x.jsonl", PAIR))
    path = tmp_path / name
    if name == "folder":
        tt.export_parquet(run, store, path)
    elif name == "copy.tape":
        tt.pack([run], store, path)
    else:
        tt.export_jsonl([run], store, path)
    with tt.open_store("sqlite://") as other:
        assert isinstance(other, DatabaseStore)
        (copy,) = imported(other, path)
        assert list(copy.own_events()) == list(run.own_events())
        assert tt.check(other, copy.run_id).ok
        # The same conversation of the file is the same run.
        assert [each.added for each in tt.import_runs(tmp_path / "x.jsonl", other)] == [False]


def test_an_erased_conversation_is_not_added_again(store: DatabaseStore, tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", TALK, PAIR)
    first, _ = imported(store, lines(tmp_path / "y.jsonl", TALK, PAIR))
    store.erase(first.run_id)

    with pytest.raises(tt.StoreError, match="was erased"):
        tt.import_runs(path, store)


def test_a_file_of_many_lines_is_not_held_in_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "x.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(300):
            talk = [{"role": "user", "content": f"{number} " + "x" * 100_000}]
            file.write(json.dumps(talk) + "\n")
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        tracemalloc.start()
        try:
            assert len(tt.import_runs(path, store)) == 300
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert path.stat().st_size > 30_000_000
    assert peak < 5_000_000
