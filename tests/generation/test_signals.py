"""SIGTERM and SIGHUP end a run as Ctrl-C does, where nobody else handles them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tokentape.generation import interrupts
from tokentape.recorder.errors import Terminated
from tokentape.recorder.events import RunFailed, RunFinished, ToolCalled
from tokentape.store import DatabaseStore

ENDING = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _signals_have_their_defaults() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    assert [signal.getsignal(number) for number in ENDING] == [signal.SIG_DFL] * 2
    for number, handler in before.items():
        signal.signal(number, handler)


def begin(lm: tt.LoadedModel, store: tt.EventLog, **settings: Any) -> tt.Investigation:
    return tt.Investigation(lm, store=store, name="x", system_prompt="Hi.", **settings)


def at_token(count: int, act: Callable[[], object]) -> Callable[[int, Any], None]:
    seen = []

    def callback(token_id: int, logits: Any) -> None:
        seen.append(token_id)
        if len(seen) == count:
            act()

    return callback


def end_of(store: DatabaseStore, run: tt.Investigation) -> tuple[str, str]:
    """Return the status of a run and the signal in its last event."""
    event = list(store.recording(run.run_id).events())[-1].event
    summary = store.summary(run.run_id)
    assert isinstance(event, RunFinished)
    assert summary is not None
    return summary.status, event.signal


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_run_after_the_token_and_it_resumes_there(
    number: signal.Signals, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as whole:
        expected = whole.chat("One?", max_new_tokens=8, do_sample=True, seed=3).token_ids
    # `timeout` and a terminal that closes send it twice.
    stop = at_token(3, lambda: (signal.raise_signal(number), signal.raise_signal(number)))
    with pytest.raises(Terminated) as ended, begin(lm, store) as run:
        run.chat("One?", max_new_tokens=8, do_sample=True, seed=3, callback=stop)

    assert ended.value.code == 128 + number
    assert end_of(store, run) == ("interrupted", number.name)
    assert len(store.recording(run.run_id).turns()[0].tokens) == 3
    with tt.Investigation.resume(store, run.run_id, lm) as resumed:
        assert resumed.resumed_reply is not None
        assert resumed.resumed_reply.token_ids == expected


def test_a_signal_between_two_turns_ends_the_run(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with pytest.raises(Terminated), begin(lm, store) as run:
        run.chat("One?", max_new_tokens=2)
        signal.raise_signal(signal.SIGTERM)

    assert end_of(store, run) == ("interrupted", "SIGTERM")


def test_a_signal_while_the_end_is_recorded_waits_for_it(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = store.append

    def interrupted_append(envelope: Any, record: Any, **how: Any) -> None:
        if record.kind == "RunFinished":
            signal.raise_signal(signal.SIGTERM)
        append(envelope, record, **how)

    monkeypatch.setattr(store, "append", interrupted_append)
    with pytest.raises(Terminated), begin(lm, store) as run:
        run.chat("One?", max_new_tokens=2)

    assert end_of(store, run) == ("finished", "")


def test_a_signal_ends_the_wait_for_a_tool(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    main, over = threading.main_thread().ident, threading.Event()
    assert main is not None

    def slow() -> str:
        """Take long."""
        signal.pthread_kill(main, signal.SIGTERM)
        over.wait(20)
        return "late"

    tools = tt.ToolInterface([tt.tool(slow)])
    with pytest.raises(Terminated), begin(lm, store, tools=tools) as run:
        run.chat("One?", tool_calls=[tt.ToolCall(name="slow", arguments={})], max_new_tokens=2)
    over.set()

    assert end_of(store, run) == ("interrupted", "SIGTERM")
    last = [each.event for each in store.recording(run.run_id).events()][-2]
    assert isinstance(last, ToolCalled)


def test_a_handler_of_the_user_and_an_ignored_signal_stay(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    heard: list[int] = []

    def mine(number: int, frame: Any) -> None:
        heard.append(number)

    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with begin(lm, store) as run:
        assert signal.getsignal(signal.SIGTERM) is mine
        signal.raise_signal(signal.SIGHUP)
        run.chat("One?", max_new_tokens=3, callback=at_token(2, lambda: os.kill(os.getpid(), 15)))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == (
        mine,
        signal.SIG_IGN,
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    assert heard == [signal.SIGTERM]
    assert end_of(store, run) == ("finished", "")


def test_a_run_in_another_thread_changes_no_handler(lm: tt.LoadedModel, tmp_path: Path) -> None:
    found: list[Any] = []

    def record() -> None:
        with tt.open_store(tmp_path / "runs.db") as store, begin(lm, store) as run:
            found.append(signal.getsignal(signal.SIGTERM))
            run.chat("One?", max_new_tokens=2)

    thread = threading.Thread(target=record)
    thread.start()
    thread.join()

    assert found == [signal.SIG_DFL]
    with tt.open_store(tmp_path / "runs.db") as store:
        assert store.summaries()[0].status == "finished"


def test_a_signal_ends_every_run_that_is_open_in_any_order(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    outer, inner = begin(lm, store), begin(lm, store)
    outer.__enter__()
    with pytest.raises(Terminated), inner:
        outer.__exit__(None, None, None)
        signal.raise_signal(signal.SIGTERM)

    assert end_of(store, outer) == ("finished", "")
    assert end_of(store, inner) == ("interrupted", "SIGTERM")


def test_a_second_signal_kills_the_process(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[Any, ...]] = []
    monkeypatch.setattr(interrupts, "_REPEATED_S", 0.0)
    monkeypatch.setattr("os.kill", lambda *given: killed.append((*given, signal.getsignal(15))))
    twice = at_token(2, lambda: (signal.raise_signal(15), signal.raise_signal(15)))
    with pytest.raises(Terminated), begin(lm, store) as run:
        run.chat("One?", max_new_tokens=4, callback=twice)

    assert killed == [(os.getpid(), signal.SIGTERM, signal.SIG_DFL)]


def test_an_interrupt_within_the_writing_of_an_event_still_ends_the_run(
    lm: tt.LoadedModel, store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = store.append

    def interrupted_append(envelope: Any, record: Any, **how: Any) -> None:
        if record.kind == "MessageAdded":
            raise KeyboardInterrupt
        append(envelope, record, **how)

    monkeypatch.setattr(store, "append", interrupted_append)
    with pytest.raises(KeyboardInterrupt), begin(lm, store) as run:
        run.chat("One?", max_new_tokens=2)
    ended = list(store.recording(run.run_id).events())[-1].event

    assert isinstance(ended, RunFailed)
    assert ended.error == "KeyboardInterrupt"


ABANDONED = """
import signal, sys, threading
import torch
import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model

main = threading.main_thread().ident

@tt.tool
def busy() -> str:
    \"\"\"Compute for about a second.\"\"\"
    signal.pthread_kill(main, signal.SIGTERM)
    matrix = torch.ones(500, 500)
    for _ in range(200):
        matrix = (matrix @ matrix).clamp(0, 1)
    return "done"

lm = tiny_model("llama", byte_tokenizer())
tools = tt.ToolInterface([busy])
with tt.open_store(sys.argv[1]) as store:
    with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.", tools=tools) as run:
        run.chat("One?", tool_calls=[tt.ToolCall(name="busy", arguments={})], max_new_tokens=2)
"""


def test_a_tool_that_is_left_running_does_not_abort_the_process(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-c", ABANDONED, str(tmp_path / "runs.db")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    with tt.open_store(tmp_path / "runs.db") as store:
        (summary,) = store.summaries()

    assert (done.returncode, done.stderr) == (143, "")
    assert summary.status == "interrupted"
