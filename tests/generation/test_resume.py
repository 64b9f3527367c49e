"""Runs that stopped in the middle, and go on to the tokens that they would have had."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

import tokentape as tt
from tokentape.generation.tools.calls import CallReader
from tokentape.recorder import EventLog
from tokentape.recorder.events import RunFinished, RunForked, RunResumed, SystemPromptCached
from tokentape.store import DatabaseStore

SETTINGS: dict[str, Any] = {"do_sample": True, "temperature": 0.9, "top_k": 40}
LAYER = "model.layers.0.input_layernorm.weight"
TURNS = ("What of layer 0?", "And of layer 1, compared with it?", "Conclude.")


class Killed(BaseException):
    """What stands for a SIGKILL: nothing is written any more."""


class CutOff:
    """A log that takes so many events."""

    def __init__(self, store: DatabaseStore, events: int) -> None:
        self._store, self._left = store, events

    def append(self, envelope: tt.Envelope, *, durable: bool) -> None:
        if self._left == 0:
            raise Killed
        self._left -= 1
        self._store.append(envelope, durable=durable)

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._store.put_blob(sha256, payload)


@pytest.fixture
def calling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that calls a tool with its third token: what it says then is taken for a call."""

    def completed(self: CallReader, text: str, *, prefix: str = "") -> tuple[Any, ...]:
        from tokentape.generation.tools.calls import ParsedCall

        called = ParsedCall(
            name="get_weight_statistics", arguments={"layer_name": LAYER}, text=text[-2:]
        )
        return (called,) if len(text) == 3 else ()

    monkeypatch.setattr(CallReader, "completed", completed)


def go_on(run: tt.Investigation) -> None:
    call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": LAYER})
    for number, message in enumerate(TURNS, start=1):
        if number > run.generator.turn:
            run.chat(
                message, tool_calls=[call] if number == 2 else [], max_new_tokens=8, **SETTINGS
            )


def begin(lm: tt.LoadedModel, log: EventLog, **settings: Any) -> tt.Investigation:
    return tt.Investigation(
        lm,
        store=log,
        name="cut",
        system_prompt="Be kind and brief.",
        tools=tt.default_tools(lm),
        seed=5,
        **settings,
    )


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
def test_cut_off_in_many_places_a_run_goes_on_to_the_same_tokens(lm: tt.LoadedModel) -> None:
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

            assert without_times(said(recording)) == whole, f"cut off behind {cut} events"
            assert tt.check(store, run.run_id).holds
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
def test_every_kind_of_history_is_made_again(lm: tt.LoadedModel, settings: dict[str, Any]) -> None:
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


def test_a_finished_run_can_be_gone_on_with(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with begin(lm, store) as run:
        go_on(run)
    with tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm)) as resumed:
        assert resumed.resumed_reply is None
        assert resumed.chat("One more.", max_new_tokens=4).turn == len(TURNS) + 1

    assert tt.check(store, run.run_id).holds
    assert store.summary(run.run_id).turns == len(TURNS) + 1  # type: ignore[union-attr]


def test_whoever_still_records_a_run_that_was_taken_over_is_told(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with pytest.raises(tt.StoreError, match="a run has one writer"), begin(lm, store) as run:
        run.chat("Hello?", max_new_tokens=4)
        with tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm)):
            pass
        run.chat("Hello?", max_new_tokens=4)
    assert tt.check(store, run.run_id).holds


def test_of_two_who_go_on_with_a_run_at_once_one_is_told_and_the_other_goes_on(
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

    assert tt.check(store, run.run_id).holds
    assert store.summary(run.run_id).turns == 2  # type: ignore[union-attr]


def test_an_imported_run_can_be_gone_on_with_in_memory(
    lm: tt.LoadedModel, store: DatabaseStore, tmp_path: Any
) -> None:
    with begin(lm, store) as run:
        run.chat("Hello?", max_new_tokens=4)
    tape = tt.pack([store.recording(run.run_id)], store, tmp_path / "run.tape")
    with tt.open_store("sqlite://") as other:
        tt.import_runs(tape, other)
        with tt.Investigation.resume(other, run.run_id, lm, tools=tt.default_tools(lm)) as resumed:
            resumed.chat("Hello?", max_new_tokens=4)

        assert tt.check(other, run.run_id).holds
        assert other.summary(run.run_id).turns == 2  # type: ignore[union-attr]


def test_another_model_does_not_go_on(
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


def test_a_redacted_run_does_not_go_on(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with begin(lm, store, redactor=lambda text: text.replace("layer", "…")) as run:
        run.chat("What of layer 0?", max_new_tokens=4)

    with pytest.raises(tt.PromptError, match="was redacted"):
        tt.Investigation.resume(store, run.run_id, lm, tools=tt.default_tools(lm))


def test_ctrl_c_ends_a_run_at_the_token_and_it_goes_on_from_there(
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


def test_a_fork_shares_what_was_and_takes_another_way(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        go_on(run)
    parent = store.recording(run.run_id)
    with tt.Investigation.fork(
        store, run.run_id, lm, at_turn=3, tools=tt.default_tools(lm)
    ) as fork:
        same = fork.retake(parent.turns()[2])
        other = fork.chat("Now doubt it.", max_new_tokens=6, **SETTINGS)
    child = store.recording(fork.run_id)

    assert same.token_ids == parent.turns()[2].reply_ids
    assert other.turn == 4
    assert [turn.number for turn in child.turns()] == [1, 2, 3, 4]
    assert child.turns()[:2] == parent.turns()[:2]
    assert isinstance(list(child.records())[1].kind, str)
    assert tt.verify(child, lm).verdict == tt.Verdict.VERIFIED
    assert tt.check(store, fork.run_id).holds
    assert tt.runs_df(store)["parent_run_id"].tolist()[-1] == run.run_id
    assert tt.runs_df(store)["forked_at_turn"].tolist()[-1] == 3


def test_a_fork_takes_no_more_room_for_a_longer_past(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    sizes = []
    for turns in (2, 12):
        with begin(lm, store) as run:
            for number in range(turns):
                run.chat(f"Number {number}.", max_new_tokens=16, **SETTINGS)
        with tt.Investigation.fork(
            store, run.run_id, lm, at_turn=turns + 1, tools=tt.default_tools(lm)
        ) as fork:
            fork.chat("The same.", max_new_tokens=4)
        records = list(store.recording(fork.run_id).records())
        sizes.append((len(records), sum(len(str(each.body)) for each in records)))

    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] < 1.02 * sizes[0][1]


def test_a_fork_of_a_fork_and_one_from_before_the_fork(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    tools = tt.default_tools(lm)
    with begin(lm, store) as run:
        go_on(run)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=3, tools=tools) as child:
        child.chat("Other.", max_new_tokens=4)
        child.chat("More.", max_new_tokens=4)
    with tt.Investigation.fork(store, child.run_id, lm, at_turn=4, tools=tools) as grandchild:
        grandchild.chat("Yet another.", max_new_tokens=4)
    with tt.Investigation.fork(store, child.run_id, lm, at_turn=2, tools=tools) as early:
        early.chat("Early.", max_new_tokens=4)

    forked = [store.recording(each.run_id).forked() for each in (child, grandchild, early)]
    assert [each.parent_run_id for each in forked if each] == [
        run.run_id,
        child.run_id,
        run.run_id,
    ]
    for each in (child, grandchild, early):
        recording = store.recording(each.run_id)
        assert tt.verify(recording, lm).verdict == tt.Verdict.VERIFIED
        assert tt.check(store, each.run_id).holds
    numbers = [turn.number for turn in store.recording(grandchild.run_id).turns()]
    assert numbers == [1, 2, 3, 4]


def test_a_fork_is_packed_with_its_parents_and_keeps_them(
    lm: tt.LoadedModel, store: DatabaseStore, tmp_path: Any
) -> None:
    with begin(lm, store) as run:
        go_on(run)
    with tt.Investigation.fork(
        store, run.run_id, lm, at_turn=2, tools=tt.default_tools(lm)
    ) as fork:
        fork.chat("Other.", max_new_tokens=4)
    child = store.recording(fork.run_id)
    tape = tt.pack([child], store, tmp_path / "fork.tape")
    tt.export_jsonl([child], store, tmp_path / "fork.jsonl")
    tt.export_parquet(child, store, tmp_path / "sealed")

    for place in (tape, tmp_path / "sealed"):
        with tt.open_store(place) as sealed:
            assert sealed.recording(fork.run_id).turns() == child.turns()
            assert tt.check(sealed, fork.run_id).holds
    for copy in (tape, tmp_path / "sealed", tmp_path / "fork.jsonl"):
        with tt.open_store("sqlite://") as other:
            assert len(tt.import_runs(copy, other)) == 2
            assert other.recording(fork.run_id).turns() == child.turns()
            assert tt.check(other, fork.run_id).holds
    with pytest.raises(tt.StoreError, match="was forked"):
        store.erase(run.run_id)
    store.erase(fork.run_id)
    store.erase(run.run_id)


def test_a_fork_is_not_begun_where_there_is_nothing(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        go_on(run)
    tools = tt.default_tools(lm)
    for turn in (0, len(TURNS) + 2):
        with pytest.raises(tt.PromptError, match=f"there is no turn {turn} to begin"):
            tt.Investigation.fork(store, run.run_id, lm, at_turn=turn, tools=tools)
    assert len(store.summaries()) == 1
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=1, tools=tools) as fork:
        fork.chat("From the very beginning.", max_new_tokens=4)
    kinds = [each.event for each in store.recording(fork.run_id).own_events()]
    assert isinstance(kinds[1], RunForked)


def test_a_run_that_says_late_that_it_was_forked_does_not_hold(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        go_on(run)
    events = [each.event for each in store.recording(run.run_id).events()]
    forged = tt.Recorder(store)
    itself = RunForked(
        parent_run_id=forged.run_id, parent_seq=1, parent_hash="0" * 64, at_turn=1, changes={}
    )
    for event in (*events[:2], itself):
        forged.record(event)
    forged.finish()

    assert not tt.check(store, forged.run_id).holds
    with pytest.raises(tt.RecordingError, match="says with event 2 that it was forked"):
        store.recording(forged.run_id).turns()


def test_what_cannot_be_set_any_more_is_refused(lm: tt.LoadedModel, store: DatabaseStore) -> None:
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
def test_a_least_length_counts_the_tokens_of_all_parts(
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


def test_a_fork_that_says_another_turn_than_its_parent_stood_at_does_not_hold(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    from dataclasses import replace

    from tokentape.recorder import Recorder

    tools = tt.default_tools(lm)
    with begin(lm, store) as run:
        go_on(run)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=3, tools=tools) as fork:
        fork.chat("Other.", max_new_tokens=4)
    forked = store.recording(fork.run_id).forked()
    assert forked is not None
    forged = Recorder(store)
    forged.record(store.recording(fork.run_id).started())
    forged.record(replace(forked, at_turn=7))
    forged.finish()

    assert tt.check(store, fork.run_id).holds
    assert tt.check(store, forged.run_id).faults == ("it was forked at turn 3, and says 7",)
