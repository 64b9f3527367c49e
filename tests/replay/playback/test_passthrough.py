"""The model is asked where an application differs from its tape, and that is recorded."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.generation.completions.requests import ADD
from tests.replay.playback.conftest import QUESTIONS, Recorded, ask
from tokentape.recorder.seals import check_seals

CHANGED = (QUESTIONS[0], "And how deep is it?", QUESTIONS[2])


def test_the_model_is_not_loaded_while_the_tape_answers(
    recorded: Recorded, first: dict[str, Any]
) -> None:
    def load() -> tt.LoadedModel:
        raise AssertionError("the model was loaded")

    with tt.playback(recorded.tape, mode="passthrough", model=load) as tape:
        assert len(ask(tape.investigation, first=first)) == 3
        with pytest.raises(tt.ReplayError, match="there is nothing to save"):
            tape.save()


def test_the_run_is_forked_where_it_differs_and_the_new_tape_plays(
    recorded: Recorded, first: dict[str, Any], lm: tt.LoadedModel, tmp_path: Path
) -> None:
    before = recorded.tape.read_bytes()
    with tt.playback(recorded.tape, mode="passthrough", model=lambda: lm) as tape:
        told = ask(tape.investigation, CHANGED, first=first)
        tape.check_all_used()
        (new,) = tape.new_run_ids
        forked = tape.store.recording(new).forked()
        assert check_seals(new, tape.store.recording(new).records()).ok
        saved = tape.save(tmp_path / "new.tape")
    with tt.playback(saved) as again:
        played = ask(again.investigation, CHANGED, first=first)

    assert told[0].token_ids == recorded.replies[0].token_ids
    assert forked is not None
    assert (forked.parent_run_id, forked.at_turn) == (recorded.run_id, 2)
    assert [each.token_ids for each in played] == [each.token_ids for each in told]
    assert [each.content for each in told[2].tool_results] == ["1470"]
    assert recorded.tape.read_bytes() == before


def test_a_changed_system_prompt_begins_a_new_run_that_replaces_the_old_one(
    recorded: Recorded, first: dict[str, Any], lm: tt.LoadedModel, tmp_path: Path
) -> None:
    copy = tmp_path / "lakes.tape"
    copy.write_bytes(recorded.tape.read_bytes())
    with tt.playback(copy, mode="passthrough", model=lm) as tape:
        ask(tape.investigation, system_prompt="You know lakes.\n{tools}", first=first)
        (new,) = tape.new_run_ids
        assert tape.save() == copy
    with tt.playback(copy) as again:
        assert again.run_ids == (new,)
        ask(again.investigation, system_prompt="You know lakes.\n{tools}", first=first)
        again.check_all_used()


def test_turns_beyond_the_tape_are_asked_and_recorded_into_a_given_store(
    lm: tt.LoadedModel, store: tt.EventLog, tmp_path: Path
) -> None:
    def application(make_run: Any, *questions: str) -> list[Any]:
        with make_run(name="more", system_prompt="Be kind.", seed=1) as run:
            return [run.chat(each, max_new_tokens=3, do_sample=True) for each in questions]

    path = tmp_path / "more.tape"
    with tt.playback(path, mode="passthrough", model=lm) as tape:
        application(tape.investigation, "One?", "Two?")
        tape.save()
    with tt.playback(path, mode="passthrough", model=lm, store=store) as tape:
        told = application(tape.investigation, "One?", "Two?", "Three?", "Four?")
        (new,) = tape.new_run_ids
    recording = store.recording(new)
    alone = application(partial(tt.Investigation, lm, store=store), "One?", "Two?", "Three?")

    assert [each.turn for each in told] == [1, 2, 3, 4]
    assert told[2].token_ids == alone[2].token_ids
    assert recording.ended().status == "finished"
    assert recording.forked().at_turn == 3


def test_a_tape_that_does_not_exist_is_begun(lm: tt.LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "new.tape"
    with tt.playback(path, mode="passthrough", model=lm) as tape:
        with tape.investigation(name="first", system_prompt="Be kind.") as run:
            told = run.chat("Hello?", max_new_tokens=3)
        assert tape.save() == path
    with (
        tt.playback(path) as tape,
        tape.investigation(name="first", system_prompt="Be kind.") as run,
    ):
        assert run.chat("Hello?", max_new_tokens=3).token_ids == told.token_ids


def test_prompts_of_a_generator_are_asked_and_added(lm: tt.LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "prompts.tape"
    for prompts in (("One",), ("One", "Two")):
        with tt.playback(path, mode="passthrough", model=lm) as tape:
            generator = tape.generator()
            generator.cache_system_prompt("Be kind.")
            told = [generator.generate(each, max_new_tokens=3) for each in prompts]
            assert len(tape.new_run_ids) == 1
            tape.save()
    with tt.playback(path) as tape:
        generator = tape.generator()
        generator.cache_system_prompt("Be kind.")
        played = [generator.generate(each, max_new_tokens=3) for each in ("One", "Two")]
        tape.check_all_used()

    assert [each["generated_tokens"] for each in played] == [
        each["generated_tokens"] for each in told
    ]


def test_chat_completions_without_tools_are_asked_turn_by_turn(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    path = tmp_path / "chat.tape"

    def client(tape: tt.Playback, *questions: str) -> list[str]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": "Be kind."}]
        for question in questions:
            messages.append({"role": "user", "content": question})
            answer = tape.complete(messages, max_tokens=4, temperature=0)
            messages.append(answer["choices"][0]["message"])
        return [each["content"] for each in messages]

    for questions in (("One?", "Two?"), ("One?", "Three?", "Four?")):
        with tt.playback(path, mode="passthrough", model=lm) as tape:
            said = client(tape, *questions)
            tape.save()
    with tt.playback(path) as tape:
        assert client(tape, "One?", "Three?", "Four?") == said


def test_a_client_with_tools_is_asked_and_its_tape_plays(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    path = tmp_path / "tools.tape"
    tools = [{"type": "function", "function": ADD}]

    def client(tape: tt.Playback) -> list[str]:
        messages: list[dict[str, Any]] = []
        for question in ("1 + 2?", "And 2 + 3?"):
            messages.append({"role": "user", "content": question})
            answer = tape.complete(messages, tools=tools, max_tokens=4, seed=2, temperature=1)
            messages.append(answer["choices"][0]["message"])
        return [each["content"] for each in messages]

    with tt.playback(path, mode="passthrough", model=lm) as tape:
        told = client(tape)
        assert len(tape.new_run_ids) == 1
        tape.save()
    with tt.playback(path) as tape:
        assert client(tape) == told
        tape.check_all_used()


def test_without_a_model_the_recorded_one_is_loaded(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder.parent)
    path = tmp_path / "tiny.tape"
    with tt.playback(path, mode="passthrough", model="tiny") as tape:
        with tape.investigation(name="tiny", system_prompt="Be kind.") as run:
            run.chat("One?", max_new_tokens=2)
        tape.save()
    with (
        tt.playback(path, mode="passthrough") as tape,
        tape.investigation(name="tiny", system_prompt="Be kind.") as run,
    ):
        assert run.chat("Two?", max_new_tokens=2).turn == 1
