"""A resumed run gets the tokens that it would have had without the interruption."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

import tokentape as tt
from tests.generation.made_runs import LAYER, SETTINGS, TURNS, begin, go_on
from tokentape.generation.tools.calls import CallReader
from tokentape.recorder import Record
from tokentape.recorder.events import RunFinished, RunResumed, SystemPromptCached
from tokentape.store import DatabaseStore


class Killed(BaseException):
    """Raised in place of a SIGKILL: nothing is written after it."""


class CutOff:
    """A log that stores this many events, then raises `Killed`."""

    def __init__(self, store: DatabaseStore, events: int) -> None:
        self._store, self._left = store, events

    def append(self, envelope: tt.Envelope, record: Record, **more: Any) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1
        self._store.append(envelope, record, **more)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._store.put_blob(sha256, payload)


@pytest.fixture
def calling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a reader find a tool call after the third token of a reply."""

    def completed(self: CallReader, text: str, *, prefix: str = "") -> tuple[Any, ...]:
        from tokentape.generation.tools.calls import ParsedCall

        called = ParsedCall(
            name="get_weight_statistics", arguments={"layer_name": LAYER}, text=text[-2:]
        )
        return (called,) if len(text) == 3 else ()

    monkeypatch.setattr(CallReader, "completed", completed)


def said(recording: tt.Recording) -> list[Any]:
    return [
        (turn.number, turn.first_step, turn.prompt_ids, turn.reply_ids, turn.finished)
        for turn in recording.turns()
    ]


def without_times(turns: list[Any]) -> list[Any]:
    return [
        (*rest, finished.stop_reason, finished.text, finished.generator_sha256)
        for *rest, finished in turns
    ]


@pytest.mark.usefixtures("calling")
def test_a_run_that_is_killed_after_any_event_resumes_to_the_same_tokens(
    lm: tt.LoadedModel,
) -> None:
    with tt.open_store("sqlite://") as store:
        with begin(lm, store) as run:
            go_on(run)
        whole = without_times(said(store.recording(run.run_id)))
        events = [each.event for each in store.recording(run.run_id).events()]
    assert len(whole) > len(TURNS), "the model called no tool in a turn"
    begun = next(i for i, each in enumerate(events) if isinstance(each, SystemPromptCached)) + 1
    for cut in range(begun, len(events), 2):
        with tt.open_store("sqlite://") as store:
            with pytest.raises(Killed), begin(lm, CutOff(store, cut)) as run:
                go_on(run)
            with tt.Investigation.resume(
                store, run.run_id, lm, tools=tt.default_tools(lm)
            ) as resumed:
                go_on(resumed)
            recording = store.recording(run.run_id)

            assert without_times(said(recording)) == whole, f"cut off after {cut} events"
            assert tt.check(store, run.run_id).ok
            assert store.summary(run.run_id).status == "finished"  # type: ignore[union-attr]
            roles = [(each.role, each.content) for each in recording.messages()]
            assert (
                len(roles)
                == len(recording.conversation())
                == 1 + len(whole) + len(TURNS) + (len(whole) - len(TURNS) + 1)
            )


def test_a_resumed_run_verifies_and_regenerates(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with pytest.raises(Killed), begin(lm, CutOff(store, 26)) as run:
        go_on(run)
    with tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm)) as resumed:
        assert resumed.resumed_reply is not None
        go_on(resumed)
    recording = store.recording(run.run_id)
    went_on = [each.event for each in recording.events() if isinstance(each.event, RunResumed)]

    assert [each.turn for each in went_on] == [2]
    assert tt.verify(recording, lm).verdict == tt.Verdict.VERIFIED
    assert tt.regenerate(recording, lm).verdict == tt.Verdict.EXACT
    assert len(tt.rebuild(recording).turns) == len(recording.turns())


@pytest.mark.parametrize(
    "settings",
    [
        {"history": "template"},
        {"at_context_limit": "prune_turns", "context_budget_tokens": 220},
        {"at_context_limit": "prune_tool_results", "context_budget_tokens": 500},
    ],
)
def test_every_kind_of_history_is_restored(lm: tt.LoadedModel, settings: dict[str, Any]) -> None:
    def talk(run: tt.Investigation) -> None:
        for number in range(run.generator.turn, 6):
            run.chat(f"Say number {number} in other words.", max_new_tokens=10, **SETTINGS)

    with tt.open_store("sqlite://") as store:
        with begin(lm, store, **settings) as run:
            talk(run)
        whole = without_times(said(store.recording(run.run_id)))
        assert store.summary(run.run_id).turns == 6  # type: ignore[union-attr]
    with tt.open_store("sqlite://") as store:
        with pytest.raises(Killed), begin(lm, CutOff(store, 65), **settings) as run:
            talk(run)
        with tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm)) as resumed:
            talk(resumed)

        assert without_times(said(store.recording(run.run_id))) == whole


def test_a_finished_run_can_be_resumed(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with begin(lm, store) as run:
        go_on(run)
    with tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm)) as resumed:
        assert resumed.resumed_reply is None
        assert resumed.chat("One more.", max_new_tokens=4).turn == len(TURNS) + 1

    assert tt.check(store, run.run_id).ok
    assert store.summary(run.run_id).turns == len(TURNS) + 1  # type: ignore[union-attr]


def test_a_recorder_whose_run_was_resumed_elsewhere_raises(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with pytest.raises(tt.StoreError, match="a run has one writer"), begin(lm, store) as run:
        run.chat("Hello?", max_new_tokens=4)
        with tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm)):
            pass
        run.chat("Hello?", max_new_tokens=4)
    assert tt.check(store, run.run_id).ok


def test_of_two_processes_that_resume_a_run_at_once_one_raises(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        run.chat("Hello?", max_new_tokens=4)
    first, second = (
        tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm)) for _ in range(2)
    )
    with first:
        with pytest.raises(tt.StoreError, match="a run has one writer"), second:
            pass
        first.chat("Hello?", max_new_tokens=4)

    assert tt.check(store, run.run_id).ok
    assert store.summary(run.run_id).turns == 2  # type: ignore[union-attr]


def test_an_imported_run_can_be_resumed_in_memory(
    lm: tt.LoadedModel, store: DatabaseStore, tmp_path: Any
) -> None:
    with begin(lm, store) as run:
        run.chat("Hello?", max_new_tokens=4)
    tape = tt.pack([store.recording(run.run_id)], store, tmp_path / "run.tape")
    with tt.open_store("sqlite://") as other:
        tt.import_runs(tape, other)
        with tt.Investigation.resume(other, run.run_id, lm, tools=tt.default_tools(lm)) as resumed:
            resumed.chat("Hello?", max_new_tokens=4)

        assert tt.check(other, run.run_id).ok
        assert other.summary(run.run_id).turns == 2  # type: ignore[union-attr]


def test_a_run_is_not_resumed_with_another_model(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    altered: Callable[..., tt.LoadedModel],
) -> None:
    with begin(lm, store) as run:
        go_on(run)
    other = altered(lm, lambda model: model.lm_head.weight.mul_(1.01))

    with pytest.raises(tt.ModelError, match="has other weights than"):
        tt.Investigation.resume(store, run.run_id, other, tools=tt.default_tools(lm))
    with pytest.raises(tt.PromptError, match=r"begun with tools: .*get_weight_statistics"):
        tt.Investigation.resume(store, run.run_id, lm)
    assert store.summary(run.run_id).status == "finished"  # type: ignore[union-attr]


def test_a_redacted_run_is_not_resumed(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with begin(lm, store, redactor=lambda text: text.replace("layer", "…")) as run:
        run.chat("What of layer 0?", max_new_tokens=4)

    with pytest.raises(tt.PromptError, match="was redacted"):
        tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm))


def test_ctrl_c_ends_a_run_after_the_token_and_it_resumes_there(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        go_on(run)
    whole = without_times(said(store.recording(run.run_id)))
    seen: list[int] = []

    def interrupt(token_id: int, logits: Any) -> None:
        seen.append(token_id)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), begin(lm, store) as run:
        run.chat(TURNS[0], max_new_tokens=8, callback=interrupt, **SETTINGS)
    ended = list(store.recording(run.run_id).events())[-1].event
    assert isinstance(ended, RunFinished)
    assert ended.reason == store.summary(run.run_id).status == "interrupted"  # type: ignore[union-attr]
    assert len(store.recording(run.run_id).turns()[0].tokens) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    with tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm)) as resumed:
        go_on(resumed)
    assert without_times(said(store.recording(run.run_id))) == whole


def test_settings_of_a_run_that_has_begun_are_refused(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        run.chat("Hello?", max_new_tokens=4)
    tools = tt.default_tools(lm)
    for name in ("seed", "redactor", "history", "system_prompt"):
        with pytest.raises(tt.PromptError, match=f"{name} cannot be set"):
            tt.Investigation.resume(store, run.run_id, lm, tools=tools, **{name: "template"})
    for name in ("redactor", "history", "foo"):
        with pytest.raises(tt.PromptError, match=f"{name} cannot be set"):
            tt.Investigation.fork(
                store, run.run_id, lm, at_turn=2, tools=tools, **{name: "template"}
            )
    assert len(store.summaries()) == 1


@pytest.mark.usefixtures("calling")
def test_min_new_tokens_counts_the_tokens_of_all_rounds(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        run.chat("Hello?", max_new_tokens=9, min_new_tokens=6, **SETTINGS)
    recording = store.recording(run.run_id)
    first, *rest = (turn.started.sampling.get("min_new_tokens") for turn in recording.turns())

    assert first == 6
    assert rest
    assert all(least is None or least < 6 for least in rest)
    assert tt.regenerate(recording, lm).verdict == tt.Verdict.EXACT
