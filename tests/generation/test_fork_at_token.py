"""Forks within a reply: its first tokens are shared, and it continues in another way."""

from collections.abc import Callable
from typing import Any

import pytest

import tokentape as tt
from tests.generation.made_runs import LAYER, SETTINGS, begin, go_on
from tests.generation.test_resume import CutOff, Killed
from tokentape.generation.tools.calls import CallReader, ParsedCall
from tokentape.recorder.events import TokenSampled, ToolReturned, TurnStarted
from tokentape.recorder.projections import join_rounds
from tokentape.store import DatabaseStore

REPLAYS = (tt.verify, tt.retrace, tt.regenerate)


def fork_of(
    lm: tt.LoadedModel, store: Any, run: tt.Investigation | str, turn: int, **how: Any
) -> tt.Investigation:
    run_id = run if isinstance(run, str) else run.run_id
    how.setdefault("tools", tt.default_tools(lm))
    return tt.Investigation.fork(store, run_id, lm, at_turn=turn, **how)


def passes(recording: tt.Recording, lm: tt.LoadedModel) -> bool:
    """Return whether every replay agrees with the whole run, and with its last turn alone."""
    last = [recording.turns()[-1].number]
    reports = [
        *(replay(recording, lm) for replay in REPLAYS),
        *(replay(recording, lm, turns=last) for replay in (tt.verify, tt.regenerate)),
    ]
    # No floor is known for some models, so that the whole run is not comparable.
    return all(each.verdict.passes for report in reports for each in report.turns) and all(
        report.verdict is tt.Verdict.EXACT for report in reports if report.replay != "verify"
    )


def replies(recording: tt.Recording) -> dict[int, tuple[int, ...]]:
    return {turn.number: turn.reply_ids for turn in join_rounds(recording.turns())}


@pytest.fixture
def parent(lm: tt.LoadedModel, store: DatabaseStore) -> tt.Recording:
    with begin(lm, store) as run:
        go_on(run)
    return store.recording(run.run_id)


@pytest.mark.parametrize("token", [0, 1, 5, 7])
def test_a_fork_that_changes_nothing_gets_the_tokens_of_its_parent(
    lm: tt.LoadedModel, store: DatabaseStore, parent: tt.Recording, token: int
) -> None:
    """Each token uses the draw of the random stream that it has in the parent."""
    with fork_of(lm, store, parent.run_id, 2, at_token=token) as fork:
        pass
    child, turn = store.recording(fork.run_id), parent.turns()[1]

    assert fork.resumed_reply is not None
    assert fork.resumed_reply.token_ids == turn.reply_ids
    assert turn.finished is not None
    assert fork.resumed_reply.text == turn.finished.text
    (end,) = [each.finished for each in child.turns() if each.number == 2 and each.finished]
    assert end.generator_sha256 == turn.finished.generator_sha256
    own = [each.event for each in child.own_events()]
    assert sum(isinstance(each, TokenSampled) for each in own) == len(turn.tokens) - token
    assert passes(child, lm)
    assert tt.check(store, fork.run_id).ok


@pytest.mark.parametrize("family", ["llama", "gpt2", "mamba"])
def test_another_token_is_taken_and_recorded_as_the_experimenters(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore, family: str
) -> None:
    lm = make_lm(family)
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=3) as run:
        run.chat("Why?", max_new_tokens=8, **SETTINGS)
    (recorded,) = store.recording(run.run_id).turns()
    with fork_of(lm, store, run, 1, at_token=4, token="Z") as fork:
        fork.chat("And then?", max_new_tokens=4, **SETTINGS)
    child = store.recording(fork.run_id)
    first, last = child.turns()[:2]
    other = lm.tokenizer.encode("Z", add_special_tokens=False)[0]

    assert other != recorded.reply_ids[4], "the tokens are equal: choose another"
    assert first.reply_ids == recorded.reply_ids[:4]
    assert last.reply_ids[0] == other
    assert last.forced_steps == (4,)
    assert last.started.continued_tokens == last.started.first_step == 4
    assert last.tokens[0].logprob_processed == last.tokens[0].logprob
    reply = fork.resumed_reply
    assert reply is not None
    assert replies(child)[1] == reply.token_ids
    assert join_rounds(child.turns())[0].forced_steps == (4,)
    # The next prompt has the whole reply as one message of the assistant.
    messages = fork.generator.conversation.messages
    assert [each["role"] for each in messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert messages[2]["content"] == reply.text
    assert child.turns()[2].prompt_ids[: len(last.prompt_ids) + len(last.tokens)] == (
        *last.prompt_ids,
        *last.reply_ids,
    )
    assert passes(child, lm)
    assert tt.check(store, fork.run_id).ok


def test_settings_and_a_seed_hold_from_the_token_on(
    lm: tt.LoadedModel, store: DatabaseStore, parent: tt.Recording
) -> None:
    changes = {"temperature": 3.0, "seed": 12, "max_new_tokens": 14, "repetition_penalty": 1.3}
    with fork_of(lm, store, parent.run_id, 3, at_token=6, changes=changes) as fork:
        pass
    first, last = [each for each in store.recording(fork.run_id).turns() if each.number == 3]

    assert first.reply_ids == parent.turns()[2].reply_ids[:6]
    assert len(last.tokens) == 14 - 6
    assert (last.started.seed, last.started.sampling["temperature"]) == (12, 3.0)
    assert first.started.sampling["temperature"] == SETTINGS["temperature"]
    assert passes(store.recording(fork.run_id), lm)


def test_a_fork_at_a_token_is_forked_again_before_in_and_after_its_tokens(
    lm: tt.LoadedModel, store: DatabaseStore, parent: tt.Recording
) -> None:
    with fork_of(lm, store, parent.run_id, 2, at_token=3, token="Z") as child:
        pass
    whole = replies(store.recording(child.run_id))[2]
    for token, owner in ((2, parent.run_id), (3, parent.run_id), (6, child.run_id)):
        with fork_of(lm, store, child, 2, at_token=token, token="Q") as fork:
            fork.chat("On.", max_new_tokens=3, **SETTINGS)
        recording = store.recording(fork.run_id)
        forked = recording.forked()
        assert forked is not None
        assert (forked.parent_run_id, forked.at_token) == (owner, token)
        assert replies(recording)[2][:token] == whole[:token]
        assert passes(recording, lm)
        assert tt.check(store, fork.run_id).ok
    with fork_of(lm, store, child, 3) as later:
        later.retake(parent.turns()[2])
    assert replies(store.recording(later.run_id))[2] == whole
    assert passes(store.recording(later.run_id), lm)


@pytest.fixture
def calling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a reader find a tool call after the third token of a reply."""

    def completed(self: CallReader, text: str, *, prefix: str = "") -> tuple[Any, ...]:
        called = ParsedCall(
            name="get_weight_statistics", arguments={"layer_name": LAYER}, text=text[-2:]
        )
        return (called,) if len(text) == 3 else ()

    monkeypatch.setattr(CallReader, "completed", completed)


@pytest.mark.usefixtures("calling")
@pytest.mark.parametrize("token", [1, 3, 4])
def test_a_token_of_a_later_round_is_forked_after_the_shared_tool_results(
    lm: tt.LoadedModel, store: DatabaseStore, token: int
) -> None:
    with begin(lm, store) as run:
        run.chat("Look.", max_new_tokens=8, **SETTINGS)
    parent = store.recording(run.run_id)
    assert len(parent.turns()) > 1
    with fork_of(lm, store, run, 1, at_token=token) as same:
        pass
    with fork_of(lm, store, run, 1, at_token=token, token="Z") as fork:
        fork.chat("And?", max_new_tokens=2)

    assert replies(store.recording(same.run_id)) == replies(parent)
    results = [each.event for each in store.recording(fork.run_id).own_events()]
    if token >= 3:
        assert not any(isinstance(each, ToolReturned) and each.turn == 1 for each in results[:8])
    for each in (same, fork):
        recording = store.recording(each.run_id)
        assert tt.verify(recording, lm).verdict.passes
        assert tt.retrace(recording, lm).verdict.passes
        assert tt.check(store, each.run_id).ok


def test_a_fork_that_is_killed_after_any_event_resumes_to_the_same_tokens(
    lm: tt.LoadedModel,
) -> None:
    with tt.open_store("sqlite://") as store:
        with begin(lm, store) as run:
            run.chat("Look.", max_new_tokens=8, **SETTINGS)

        def go(fork: tt.Investigation) -> None:
            if fork.generator.turn < 2:
                fork.chat("On.", max_new_tokens=3, **SETTINGS)

        with fork_of(lm, store, run, 1, at_token=3, token="Z") as whole:
            go(whole)
        wanted = replies(store.recording(whole.run_id))
        events = len(list(store.recording(whole.run_id).own_events()))
        for cut in range(3, events, 2):
            log = CutOff(store, cut)
            log.recording = store.recording  # type: ignore[attr-defined]
            with pytest.raises(Killed):
                fork = fork_of(lm, log, run, 1, at_token=3, token="Z")
                with fork:
                    go(fork)
            with tt.Investigation.resume(
                store, fork.run_id, lm, tools=tt.default_tools(lm)
            ) as resumed:
                go(resumed)
            recording = store.recording(fork.run_id)
            assert replies(recording) == wanted, cut
            assert tt.check(store, fork.run_id).ok
            assert tt.verify(recording, lm).verdict.passes, cut
            assert tt.retrace(recording, lm).verdict == tt.Verdict.EXACT, cut


def test_interventions_hold_for_the_shared_tokens_and_new_ones_from_the_token_on(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with begin(lm, store) as run:
        run.intervene(tt.Intervention.scale("loud", 1, 1.5))
        run.chat("Look.", max_new_tokens=8, **SETTINGS)
    with fork_of(lm, store, run, 1, at_token=4) as same:
        pass
    fork = fork_of(lm, store, run, 1, at_token=4)
    fork.intervene(tt.Intervention.ablate("mute", 0))
    with fork:
        fork.chat("On.", max_new_tokens=3, **SETTINGS)
    recording = store.recording(fork.run_id)

    assert replies(store.recording(same.run_id)) == replies(store.recording(run.run_id))
    assert replies(recording)[1] != replies(store.recording(run.run_id))[1]
    for each in (same, fork):
        assert passes(store.recording(each.run_id), lm)
        assert tt.check(store, each.run_id).ok


def test_what_cannot_be_forked_is_refused_and_leaves_no_run(
    lm: tt.LoadedModel, store: DatabaseStore, parent: tt.Recording
) -> None:
    def refused(match: str, turn: int = 2, **how: Any) -> None:
        with (
            pytest.raises((tt.PromptError, tt.ModelError), match=match),
            fork_of(lm, store, parent.run_id, turn, **how),
        ):
            pass

    refused("reply has the tokens 0 to 7", at_token=8)
    refused("no turn 9 with tokens", 9, at_token=0)
    refused("counts the tokens of the reply from zero: not -1", at_token=-1)
    refused("token needs at_token", token="Z")
    refused(r"token ' no' is 3 tokens, not one: ' ' \(\d+\), 'n'", at_token=2, token=" no")
    refused("is not one of the model's", at_token=2, token=10**6)
    refused("5 tokens of it are shared", at_token=5, changes={"max_new_tokens": 5})
    refused("temprature", at_token=5, changes={"temprature": 1.0})
    refused("end it already", at_token=5, changes={"eos_token_id": parent.turns()[1].reply_ids[4]})
    assert [each.run_id for each in store.summaries()] == [parent.run_id]


def test_a_packed_fork_at_a_token_equals_the_original(
    lm: tt.LoadedModel, store: DatabaseStore, parent: tt.Recording, tmp_path: Any
) -> None:
    with fork_of(lm, store, parent.run_id, 2, at_token=3, token="Z") as fork:
        pass
    child = store.recording(fork.run_id)
    tape = tt.pack([child], store, tmp_path / "fork.tape")

    with tt.open_store(tape) as packed:
        assert packed.recording(fork.run_id).turns() == child.turns()
        assert tt.check(packed, fork.run_id).ok
    assert tt.rebuild(child, turns=[2]).turns == tuple(
        each for each in tt.rebuild(child).turns if each.number == 2
    )


def test_a_continued_round_whose_tokens_are_not_the_parents_is_found(
    lm: tt.LoadedModel, store: DatabaseStore, parent: tt.Recording
) -> None:
    from dataclasses import replace

    with fork_of(lm, store, parent.run_id, 2, at_token=3, token="Z") as fork:
        pass
    forged = tt.Recorder(store)
    for each in store.recording(fork.run_id).own_events():
        event = each.event
        if isinstance(event, TurnStarted):
            event = replace(event, added_ids=(event.added_ids[0] ^ 1, *event.added_ids[1:]))
        if event.traits.ends_run:
            break
        forged.record(event)
    forged.finish()

    assert not tt.check(store, forged.run_id).ok
    with pytest.raises(tt.RecordingError, match="not those before it"):
        store.recording(forged.run_id).turns()
