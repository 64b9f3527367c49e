"""A model's calls in interrupted, steered and redacted runs."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import tokentape as tt
from tests.generation.calling_models import TOOLS, begun, call, events, says, status
from tokentape.generation.errors import ToolFailedWarning
from tokentape.recorder.events import (
    InterventionRequested,
    MessageAdded,
    RunFinished,
    ToolCalled,
    ToolReturned,
    TurnFinished,
)
from tokentape.store import DatabaseStore


def muting(runs: Sequence[tt.Investigation], **settings: Any) -> tt.ToolInterface:
    """Return a tool that intervenes in the last of the runs, which may not have begun yet."""

    def mute() -> str:
        """
        Mute a layer.
        """
        runs[-1].intervene(tt.Intervention.ablate("mute", 1), **settings)
        return "muted"

    return tt.ToolInterface([mute])


@pytest.mark.parametrize("role", ["tool", "user"])
def test_a_run_that_is_resumed_keeps_the_role_of_its_results(
    lm: tt.LoadedModel, store: DatabaseStore, role: str
) -> None:
    """Also if the template accepts both roles."""
    with begun(lm, store, tool_result_role=role) as run:
        run.chat("Hello?", max_new_tokens=2)
    with tt.Investigation.resume(store, run.run_id, lm, tools=TOOLS) as resumed:
        resumed.chat(
            "Look.",
            max_new_tokens=200,
            logits_processor=says(lm, "", call("hermes", name="a"), "So."),
        )
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=2, tools=TOOLS) as fork:
        pass

    roles = [each.role for each in events(store, run, MessageAdded)]
    assert roles == ["user", "user", role]
    assert store.recording(fork.run_id).started().settings["tool_result_role"] == role


def test_a_redactor_sees_what_is_called_and_what_comes_back(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    forced = says(lm, "Ann? " + call("hermes", name="Ann"), "Ann it is.")
    with begun(lm, store, redactor=lambda text: text.replace("Ann", "…")) as run:
        reply = run.chat("Who is Ann?", max_new_tokens=200, logits_processor=forced)
    recording = store.recording(run.run_id)
    called, returned = events(store, run, ToolCalled, ToolReturned)

    assert reply.tool_results[0].content == '"about Ann"'
    assert called.arguments == {"name": "…"}
    assert called.text == call("hermes", name="Ann").replace("Ann", "…")
    assert returned.content == '"about …"'
    assert recording.read_blob(returned.payload_sha256).decode() == '"about …"'
    assert "Ann" not in "".join(map(repr, events(store, run)))
    assert [each.text for each in events(store, run, TurnFinished)][-1] == "… it is."
    assert tt.check(store, run.run_id).ok


@pytest.fixture
def interrupting() -> Callable[..., tt.ToolInterface]:
    """Return a tool that Ctrl-C interrupts in its first call."""
    times: list[int] = []

    def look_up(name: str) -> str:
        """
        Look something up.

        Args:
            name: What to look for.
        """
        times.append(1)
        if len(times) == 1:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.3)
        return f"about {name}"

    return lambda: tt.ToolInterface([look_up])


def test_ctrl_c_while_a_tool_runs_ends_the_run_and_the_call_is_made_again(
    lm: tt.LoadedModel, store: DatabaseStore, interrupting: Callable[..., tt.ToolInterface]
) -> None:
    forced = says(lm, call("hermes", name="a"), "So.")

    with pytest.raises(KeyboardInterrupt), begun(lm, store, tools=interrupting()) as run:
        run.chat("Look.", max_new_tokens=200, logits_processor=forced)
    ended = events(store, run)[-1]
    assert isinstance(ended, RunFinished)
    assert ended.reason == status(store, run) == "interrupted"
    assert len(events(store, run, ToolCalled)) == 1
    assert events(store, run, ToolReturned) == []

    with tt.Investigation.resume(store, run.run_id, lm, tools=interrupting()) as resumed:
        # What the caller passes is not recorded: after the call the model says what it wants.
        reply = resumed.resumed_reply
    assert reply is not None
    assert [each.content for each in reply.tool_results] == ['"about a"']
    assert len(reply.rounds) == 2
    assert [each.call_id for each in events(store, run, ToolCalled)] == ["call_1", "call_1"]
    assert len(events(store, run, ToolReturned)) == 1
    assert status(store, run) == "finished"
    assert tt.check(store, run.run_id).ok
    assert len(tt.rebuild(store.recording(run.run_id)).turns) == 2


def test_an_intervention_requested_by_a_tool_acts_in_the_rest_of_its_turn(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    runs: list[tt.Investigation] = []
    tools = muting(runs)
    runs.append(begun(lm, store, tools=tools))
    with runs[-1] as run:
        run.chat(
            "Do.", max_new_tokens=120, logits_processor=says(lm, call("hermes", "mute"), "So.")
        )
        run.chat("And now?", max_new_tokens=4, do_sample=False)
    (asked,) = events(store, run, InterventionRequested)
    first, rest, second = store.recording(run.run_id).turns()

    assert (asked.turn, first.number, rest.number, second.number) == (1, 1, 1, 2)
    assert first.interventions == ()
    assert [each.start for each in rest.interventions] == [
        len(first.prompt_ids) + len(first.tokens)
    ]
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=2, tools=tools) as fork:
        fork.chat("And now?", max_new_tokens=4, do_sample=False)
    assert store.recording(fork.run_id).turns()[-1].reply_ids == second.reply_ids
    forced = says(lm, call("hermes", "mute"), "So.")
    verified = tt.verify(store.recording(fork.run_id), lm, processors=lambda turn: forced)
    assert verified.verdict is tt.Verdict.VERIFIED


def test_a_tool_that_clears_the_cache_gets_an_error(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    runs: list[tt.Investigation] = []
    runs.append(begun(lm, store, tools=muting(runs, clear_cache=True)))
    look = tt.ToolCall(name="mute", arguments={})
    with runs[-1] as run, pytest.warns(ToolFailedWarning):
        reply = run.chat("Do.", tool_calls=[look], max_new_tokens=4, do_sample=False)

    assert "a tool cannot clear the cache" in reply.tool_results[0].content
    assert events(store, run, InterventionRequested) == []
    assert status(store, run) == "finished"
