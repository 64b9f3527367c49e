"""Tapes of conversations that a client of an endpoint sends whole each time."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.generation.completions.requests import ADD, CALL, SYSTEM, asked, result, saying, user
from tokentape.generation.completions.completion import Completion
from tokentape.generation.completions.conversations import Conversations
from tokentape.recorder.chat_messages import ChatMessage

TOOLS = [{"type": "function", "function": ADD}]


@pytest.fixture
def client_tape(lm: tt.LoadedModel, tmp_path: Path) -> tuple[Path, list[Completion]]:
    """A tape of a call, the answer after its result, and one more turn."""
    messages: list[ChatMessage] = [SYSTEM, user("1 + 2?")]
    told = []
    with (
        tt.open_store("sqlite://") as store,
        Conversations(lm, store) as conversations,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for new in (result("3"), user("And 2 + 3?"), None):
            settings = {} if told else {"settings": saying(lm, f"Wait. {CALL}")}
            request = asked(*messages, tools=(ADD,), **settings)
            told.append(conversations.complete(request))
            messages += [told[-1].message] if new is None else [told[-1].message, new]
        runs = [store.recording(each.run_id) for each in store.summaries()]
        conversations.close()
        return tt.pack(runs, store, tmp_path / "client.tape"), told


def messages_of(told: list[Completion]) -> list[dict[str, Any]]:
    said = [SYSTEM, user("1 + 2?"), told[0].message, result("3"), told[1].message]
    return [each.to_dict() for each in (*said, user("And 2 + 3?"))]


def test_each_turn_is_answered_with_its_calls_and_tokens(
    client_tape: tuple[Path, list[Completion]],
) -> None:
    path, told = client_tape
    messages = messages_of(told)
    with tt.playback(path) as tape:
        for upto, old in zip((2, 4, 6), told, strict=True):
            more = {"temperature": 0.9, "seed": 3, "max_tokens": 6} if upto > 2 else {}
            answer = tape.complete(messages[:upto], tools=TOOLS, **more)
            (choice,) = answer["choices"]

            assert {**choice["message"], "refusal": None} == {
                **old.message.to_dict(),
                "refusal": None,
            }
            assert choice["finish_reason"] == old.finish_reason
            assert choice["token_ids"] == [each.token_id for each in old.tokens]
            assert answer["usage"]["prompt_tokens"] == old.prompt_tokens
        tape.check_all_used()


@pytest.mark.parametrize(
    ("index", "change", "says_so"),
    [
        (0, {"content": "Be kind."}, "the system prompt"),
        (3, {"content": "4"}, "turn 2, round 1: messages[3], the tool's result"),
        (2, {"content": "Hm."}, "messages[2], the model's reply"),
    ],
)
def test_a_changed_conversation_fails(
    client_tape: tuple[Path, list[Completion]], index: int, change: dict[str, Any], says_so: str
) -> None:
    path, told = client_tape
    messages = messages_of(told)
    with tt.playback(path) as tape:
        tape.complete(messages[:2], tools=TOOLS)
        messages[index] = {**messages[index], **change}
        with pytest.raises(tt.PlaybackMismatchError) as caught:
            tape.complete(messages[:4], tools=TOOLS)

    assert says_so in str(caught.value)


@pytest.mark.parametrize(
    "tool", [{**ADD, "description": "Add some numbers."}, {**ADD, "name": "sum"}]
)
def test_a_changed_description_of_a_tool_fails(
    client_tape: tuple[Path, list[Completion]], tool: dict[str, Any]
) -> None:
    path, told = client_tape
    with tt.playback(path) as tape, pytest.raises(tt.PlaybackMismatchError) as caught:
        tape.complete(messages_of(told)[:2], tools=[{"type": "function", "function": tool}])

    assert "the system prompt" in str(caught.value) or "the tools" in str(caught.value)


def test_system_messages_are_one_and_another_seed_fails(
    client_tape: tuple[Path, list[Completion]],
) -> None:
    path, told = client_tape
    messages = messages_of(told)
    with tt.playback(path) as tape:
        tape.complete(messages[:2], tools=TOOLS)
        with pytest.raises(tt.PlaybackMismatchError, match="the setting seed"):
            tape.complete(messages[:4], tools=TOOLS, seed=4)
    split = [{"role": "system", "content": "Be"}, {"role": "developer", "content": "brief."}]
    with tt.playback(path) as tape, pytest.raises(tt.PlaybackMismatchError) as caught:
        tape.complete([*split, messages[1]], tools=TOOLS)

    assert "now:      Be|\\n\\nbrief." in str(caught.value)


def test_requests_with_tools_are_played_without_torch(
    client_tape: tuple[Path, list[Completion]], tmp_path: Path
) -> None:
    path, told = client_tape
    program = (
        "import json, sys\nimport tokentape as tt\n"
        "messages, tools = json.loads(sys.argv[2])\n"
        "with tt.playback(sys.argv[1]) as tape:\n"
        "    answer = tape.complete(messages, tools=tools)\n"
        "print(answer['choices'][0]['finish_reason'])\n"
        "assert not {'torch', 'transformers', 'pandas', 'sqlalchemy'} & sys.modules.keys()\n"
    )
    given = json.dumps([messages_of(told)[:2], TOOLS])
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), given], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "tool_calls\n"), done.stderr


def test_replies_that_a_client_gives_itself_are_compared(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    given = ChatMessage(role="assistant", content="Hello yourself.")
    messages = [user("Hello"), given, user("And now?")]
    with tt.open_store("sqlite://") as store:
        with Conversations(lm, store) as conversations:
            told = conversations.complete(asked(*messages))
        (run,) = store.summaries()
        path = tt.pack([store.recording(run.run_id)], store, tmp_path / "given.tape")
    with tt.playback(path) as tape:
        answer = tape.complete([each.to_dict() for each in messages])
    with tt.playback(path) as tape, pytest.raises(tt.PlaybackMismatchError, match=r"you\|rself"):
        changed = [messages[0], replace(given, content="Hello you."), messages[2]]
        tape.complete([each.to_dict() for each in changed])

    assert answer["choices"][0]["message"]["content"] == told.message.content
