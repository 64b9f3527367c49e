"""An application, its tools, and a tape of it."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.generation.calling_models import call, says

MakeRun = Callable[..., Any]
SYSTEM = "You answer about lakes. Ask the tools.\n\n{tools}"
QUESTIONS = ("Which lake is the deepest?", "How deep is it – in metres?", "And the next?")


@tt.tool
def depth(lake: str) -> int:
    """
    Return the depth of a lake.

    Args:
        lake: Its name.
    """
    return {"Baikal": 1642, "Tanganyika": 1470}.get(lake, 0)


def ask(
    make_run: MakeRun,
    questions: Sequence[str] = QUESTIONS,
    *,
    system_prompt: str = SYSTEM,
    tools: Any = None,
    seed: int = 5,
    first: dict[str, Any] | None = None,
    **settings: Any,
) -> list[Any]:
    """The application: a conversation with a tool, sampled from the second turn on."""
    tools = tt.ToolInterface([depth]) if tools is None else tools
    sampled = {"max_new_tokens": 6, "do_sample": True, "temperature": 0.8, **settings}
    with make_run(
        name="lakes",
        system_prompt=system_prompt,
        tools=tools,
        seed=seed,
        tool_call_format="hermes",
    ) as run:
        replies = [run.chat(questions[0], **(first or {"max_new_tokens": 200}))]
        for question in questions[1:-1]:
            replies.append(run.chat(question, **sampled))
        looked_up = tt.ToolCall(name="depth", arguments={"lake": "Tanganyika"})
        replies.append(run.chat(questions[-1], tool_calls=[looked_up], **sampled))
    return replies


def failure_of(run: Callable[[], object]) -> str:
    with pytest.raises(tt.PlaybackMismatchError) as caught:
        run()
    assert isinstance(caught.value, AssertionError)
    return str(caught.value)


@pytest.fixture(scope="session")
def first(make_lm: Callable[..., tt.LoadedModel]) -> dict[str, Any]:
    """The settings of the first turn, in which the model is made to call a tool."""
    texts = (f"Let me see. {call('hermes', 'depth', lake='Baikal')}", "Baikal.")
    return {"max_new_tokens": 200, "logits_processor": says(make_lm(), *texts)}


@dataclass(frozen=True)
class Recorded:
    """The tape of the application, and what the model answered."""

    tape: Path
    replies: list[Any]
    run_id: str


@pytest.fixture(scope="session")
def recorded(
    make_lm: Callable[..., tt.LoadedModel],
    first: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Recorded:
    with tt.open_store("sqlite://") as store, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        replies = ask(partial(tt.Investigation, make_lm(), store=store), first=first)
        (run,) = store.summaries()
        tape = tmp_path_factory.mktemp("tapes") / "lakes.tape"
        tt.pack([store.recording(run.run_id)], store, tape)
    return Recorded(tape, replies, run.run_id)
