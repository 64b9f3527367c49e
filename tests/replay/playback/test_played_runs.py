"""An application that is given a tape in place of a model."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

import tokentape as tt
from tests.replay.playback.conftest import QUESTIONS, SYSTEM, Recorded, ask, depth, failure_of
from tokentape.generation import hf
from tokentape.replay.playback import PlaybackWarning
from tokentape.replay.playback.request_settings import GENERATE_DEFAULTS, SAMPLING_SETTINGS


def test_the_application_gets_what_the_model_answered(
    recorded: Recorded, first: dict[str, Any]
) -> None:
    with tt.playback(recorded.tape) as tape:
        played = ask(tape.investigation, first=first)
        tape.check_all_used()
        for old, new in zip(recorded.replies, played, strict=True):
            for name in ("turn", "text", "token_ids", "stop_reason", "cache", "duration_us"):
                assert getattr(new, name) == getattr(old, name)
            assert [each.token_id for each in new.tokens] == list(old.token_ids)
            for name in ("content", "error", "tensors", "traceback", "duration_us", "payload"):
                values = [getattr(each, name) for each in old.tool_results]
                assert [getattr(each, name) for each in new.tool_results] == values
            for name in ("text", "stop_text", "stop_reason", "seed", "first_step", "token_ids"):
                assert [getattr(each, name) for each in new.rounds] == [
                    getattr(each, name) for each in old.rounds
                ]
            prompts = [(each.prompt.ids, each.prompt.text) for each in old.rounds]
            assert [(each.prompt.ids, each.prompt.text) for each in new.rounds] == prompts
    assert [len(each.rounds) for each in played] == [2, 1, 1]
    assert [each.content for each in played[0].tool_results] == ["1642"]


@pytest.mark.parametrize(
    ("changed", "says_so"),
    [
        pytest.param(
            {"system_prompt": f"{SYSTEM}!"}, "turn 1, round 1: the system prompt", id="end"
        ),
        pytest.param(
            {"system_prompt": SYSTEM.replace("lakes", "seas")},
            "'l' (id 78), now 'seas. Ask the to…'",
            id="system prompt",
        ),
        pytest.param(
            {"questions": (QUESTIONS[0], "How deep is it – in feet?", QUESTIONS[2])},
            "turn 2, round 1: the user's message",
            id="message",
        ),
        pytest.param(
            {"questions": (QUESTIONS[0], QUESTIONS[1], "And the next? ")},
            "recorded '<|im_end|>' (id 2), now ' '",
            id="longer message",
        ),
        pytest.param(
            {"temperature": 0.7},
            "turn 2, round 1: the setting temperature: recorded 0.8, now 0.7",
            id="setting",
        ),
        pytest.param(
            {"top_k": 3}, "turn 2, round 1: the setting top_k: recorded 50, now 3", id="default"
        ),
        pytest.param(
            {"max_new_tokens": 7}, "the setting max_new_tokens: recorded 6, now 7", id="len"
        ),
        pytest.param(
            {"do_sample": False}, "the setting do_sample: recorded True, now False", id="greedy"
        ),
        pytest.param({"seed": 6}, "turn 2, round 1: the setting seed", id="seed"),
        pytest.param({"tools": []}, "the tools: recorded depth, now not there", id="tools"),
    ],
)
def test_a_request_that_differs_fails_and_says_where(
    recorded: Recorded, first: dict[str, Any], changed: dict[str, Any], says_so: str
) -> None:
    with tt.playback(recorded.tape) as tape:
        text = failure_of(lambda: ask(tape.investigation, first=first, **changed))

    assert says_so in text
    assert f"run 'lakes' ({recorded.run_id})" in text
    assert str(recorded.tape) in text


def test_the_report_names_the_first_token_that_differs(
    recorded: Recorded, first: dict[str, Any], lm: tt.LoadedModel
) -> None:
    questions = (QUESTIONS[0], "How deep is it – in meters?", QUESTIONS[2])
    with tt.playback(recorded.tape) as tape:
        text = failure_of(lambda: ask(tape.investigation, questions, first=first))
    prompt = recorded.replies[1].rounds[0].prompt
    index = len(lm.tokenizer(prompt.text[: prompt.text.index("metres") + 3])["input_ids"])

    assert "recorded: How deep is it – in met|res?" in text
    assert "now:      How deep is it – in met|ers?" in text
    assert f"token {index} of the prompt, recorded 'r' (id {prompt.ids[index]}), now 'ers?'" in text


def test_one_turn_more_than_recorded_fails(recorded: Recorded, first: dict[str, Any]) -> None:
    questions = (*QUESTIONS[:2], QUESTIONS[2], "More?")
    with (
        tt.playback(recorded.tape) as tape,
        tape.investigation(name="lakes", system_prompt=SYSTEM, tools=[depth], seed=5) as run,
    ):
        for turn, question in enumerate(questions[:2]):
            settings = {"max_new_tokens": 6, "do_sample": True, "temperature": 0.8}
            run.chat(question, **(settings if turn else first))
        calls = [tt.ToolCall(name="depth", arguments={"lake": "Tanganyika"})]
        run.chat(questions[2], tool_calls=calls, **settings)
        text = failure_of(lambda: run.chat("More?"))

    assert "turn 4, round 1: the number of turns: recorded 3 turns, now one more: 'More?'" in text


def test_other_calls_of_the_user_are_another_prompt(
    recorded: Recorded, first: dict[str, Any]
) -> None:
    look = tt.ToolCall(name="depth", arguments={"lake": "Baikal"})
    with tt.playback(recorded.tape) as tape:
        run = tape.investigation(name="lakes", system_prompt=SYSTEM, tools=[depth], seed=5)
        text = failure_of(lambda: run.chat(QUESTIONS[0], tool_calls=[look], **first))

    assert 'the user\'s tool calls: recorded not there, now depth {"lake": "Baikal"}' in text


def test_warn_gives_the_recorded_reply_and_says_what_differs(
    recorded: Recorded, first: dict[str, Any]
) -> None:
    questions = (QUESTIONS[0], "Is it deep?", QUESTIONS[2])
    with (
        tt.playback(recorded.tape, mode="warn") as tape,
        pytest.warns(PlaybackWarning, match="first token that differs") as warned,
    ):
        played = ask(tape.investigation, questions, first=first)

    assert [each.token_ids for each in played] == [each.token_ids for each in recorded.replies]
    assert len(warned) == 1


def test_tools_are_run_only_to_compare_their_results(
    recorded: Recorded, first: dict[str, Any]
) -> None:
    calls: list[str] = []

    def depth(lake: str) -> int:
        """
        Return the depth of a lake.

        Args:
            lake: Its name.
        """
        calls.append(lake)
        return {"Baikal": 1642, "Tanganyika": 1471}[lake]

    tools = tt.ToolInterface([depth])
    with tt.playback(recorded.tape) as tape:
        ask(tape.investigation, tools=tools, first=first)
    assert calls == []
    with tt.playback(recorded.tape, rerun_tools=True) as tape:
        text = failure_of(lambda: ask(tape.investigation, tools=tools, first=first))

    assert calls == ["Baikal", "Tanganyika"]
    assert "turn 3, round 1: the result of depth (call_2) is not the recorded one" in text
    assert "recorded: 147|0" in text
    assert "recorded '0'" in text


def test_functions_stand_for_tools_and_their_descriptions_are_compared(
    recorded: Recorded, first: dict[str, Any]
) -> None:
    def other(lake: str) -> int:
        """
        Return the area of a lake.

        Args:
            lake: Its name.
        """
        return 0

    other.__name__ = "depth"
    with tt.playback(recorded.tape) as tape:
        assert ask(tape.investigation, tools=[depth], first=first)
    with tt.playback(recorded.tape) as tape:
        text = failure_of(lambda: ask(tape.investigation, tools=[other], first=first))

    assert "depth: Return the |depth of a lake" in text


def test_unused_turns_are_reported_if_asked(recorded: Recorded, first: dict[str, Any]) -> None:
    with tt.playback(recorded.tape) as tape:
        with tape.investigation(system_prompt=SYSTEM, tools=[depth], seed=5) as run:
            run.chat(QUESTIONS[0], **first)
        unused = tape.unused_turns()
        text = failure_of(tape.check_all_used)

    assert unused == [(recorded.run_id, 2), (recorded.run_id, 3)]
    assert f"did not ask for turns 2, 3 of run 'lakes' ({recorded.run_id})" in text


def test_one_run_more_than_recorded_fails(recorded: Recorded) -> None:
    with tt.playback(recorded.tape) as tape:
        tape.investigation()

        assert "one run more" in failure_of(tape.investigation)


def test_a_callback_gets_each_token_and_no_logits(
    recorded: Recorded, first: dict[str, Any]
) -> None:
    seen: list[tuple[int, object]] = []
    with tt.playback(recorded.tape) as tape:
        run = tape.investigation(system_prompt=SYSTEM, tools=[depth], seed=5)
        reply = run.chat(
            QUESTIONS[0], callback=lambda token_id, logits: seen.append((token_id, logits)), **first
        )

    assert seen == [(token_id, None) for token_id in reply.token_ids]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"temprature": 1}, "no setting 'temprature'.*did you mean 'temperature'"),
        ({"return_cache": True}, "return_cache needs the model"),
    ],
)
def test_what_no_tape_has_is_refused(
    recorded: Recorded, settings: dict[str, Any], why: str
) -> None:
    with (
        tt.playback(recorded.tape) as tape,
        pytest.raises(tt.ReplayError, match=why),
        tape.investigation(system_prompt=SYSTEM, tools=[depth]) as run,
    ):
        run.chat(QUESTIONS[0], **settings)


TWENTY = """
import sys
import tokentape as tt

HEAVY = {"torch", "transformers", "pandas", "sqlalchemy"}

def application(make_run, last):
    with make_run(name="long", system_prompt="Be kind.", seed=3) as run:
        for number in range(19):
            run.chat(f"Question {number}?", max_new_tokens=4, do_sample=True)
        return run.chat(last, max_new_tokens=4, do_sample=True)

for last in ("The last?", "The list?"):
    with tt.playback(sys.argv[1]) as tape:
        try:
            print(application(tape.investigation, last).turn, len(tape.unused_turns()))
        except tt.PlaybackMismatchError as error:
            print(error)
assert not HEAVY & sys.modules.keys(), HEAVY & sys.modules.keys()
"""


def test_twenty_turns_are_played_without_torch_and_a_changed_one_fails(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    names: dict[str, Any] = {}
    exec(compile(TWENTY.partition("for last")[0].replace("sys.argv", "''"), "app", "exec"), names)
    with tt.open_store("sqlite://") as store:
        names["application"](partial(tt.Investigation, lm, store=store), "The last?")
        (run,) = store.summaries()
        tape = tt.pack([store.recording(run.run_id)], store, tmp_path / "long.tape")
    done = subprocess.run(
        [sys.executable, "-c", TWENTY, str(tape)], capture_output=True, text=True, cwd=tmp_path
    )
    lines = done.stdout.splitlines()

    assert done.returncode == 0, done.stderr
    assert lines[0] == "20 0"
    assert lines[1].startswith("turn 20, round 1: the user's message is not the recorded one")
    assert "recorded 'a'" in done.stdout


def test_the_defaults_of_settings_are_those_of_transformers() -> None:
    defaults = GenerationConfig()._get_default_generation_params()
    known = {name: defaults.get(name) for name in GENERATE_DEFAULTS}

    assert known == dict(GENERATE_DEFAULTS)
    assert SAMPLING_SETTINGS == hf.SAMPLING_SETTINGS


def test_a_whole_generation_config_may_be_given(
    recorded: Recorded, first: dict[str, Any], lm: tt.LoadedModel
) -> None:
    given = {**first, "generation_config": lm.model.generation_config}
    with tt.playback(recorded.tape) as tape:
        assert len(ask(tape.investigation, first=given)) == 3
