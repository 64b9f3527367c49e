"""The same evaluation on the model itself and through `tokentape serve` gives the same tokens."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
)
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver, use_tools
from inspect_ai.tool import ToolCall

import tokentape as tt
from tests.integrations.endpoints import running_endpoint
from tests.integrations.inspect_tasks import IGNORED_WARNINGS, add, no_model_is_left
from tokentape.store import DatabaseStore

pytestmark = IGNORED_WARNINGS


@solver
def one_more_question() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state.messages.append(ChatMessageUser(content="And once more?"))
        return await generate(state)

    return solve


def shown(x: int, y: int) -> list[ChatMessage]:
    """Return a question that was answered with the tool."""
    call = ToolCall(id=f"shown-{x}", function="add", arguments={"x": x, "y": y})
    return [
        ChatMessageUser(content=f"What is {x} + {y}?"),
        ChatMessageAssistant(content="", tool_calls=[call]),
        ChatMessageTool(content=str(x + y), tool_call_id=call.id, function="add"),
        ChatMessageAssistant(content=f"The sum is {x + y}."),
    ]


def sums(samples: int) -> Task:
    system = ChatMessageSystem(content="You answer with the tool add.")
    examples = [system, *shown(3, 5), *shown(20, 22)]
    return Task(
        dataset=[
            Sample(input=[*examples, ChatMessageUser(content=f"What is {10 + each} + {3 * each}?")])
            for each in range(1, samples + 1)
        ],
        solver=[use_tools(add()), generate(), one_more_question()],
        name="sums",
    )


def replies(store: DatabaseStore, log: EvalLog) -> dict[str, list[tuple[int, ...]]]:
    """Return the ids of the replies in the store, by the question of the sample."""
    assert log.status == "success", log.error
    found: dict[str, list[tuple[int, ...]]] = {}
    for summary in store.summaries():
        recording = store.recording(summary.run_id)
        asked = [each.content for each in recording.messages() if each.role == "user"]
        question = next(each for each in asked if each.startswith("What is 1"))
        found[question] = [each.reply_ids for each in recording.turns()]
    return found


def compare(lm: tt.LoadedModel, folder: Path, model: str, samples: int, **settings: Any) -> int:
    """Evaluate both ways and compare. Return how often a tool was called."""
    more: dict[str, Any] = {"display": "none", "log_dir": str(folder / "logs"), **settings}
    url = f"sqlite:///{folder}/own.db"
    arguments = {"store": url, "sample_seeds": False}
    with no_model_is_left():
        (own,) = evaluate(sums(samples), model=f"tokentape/{model}", model_args=arguments, **more)
    with tt.open_store("sqlite://") as served, running_endpoint(lm, served) as endpoint:
        (through,) = evaluate(
            sums(samples),
            model=f"openai-api/tape/{endpoint.model}",
            model_base_url=endpoint.url,
            model_args={"api_key": "none"},
            **more,
        )
        with tt.open_store(url) as store:
            here = replies(store, own)
            assert len(here) == samples
            assert replies(served, through) == here
    events = [each for sample in own.samples or [] for each in sample.events]
    return sum(each.event == "tool" for each in events)


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.8, "seed": 5}])
def test_both_ways_give_the_same_tokens(
    tiny_folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    lm = tt.load_model(tiny_folder)
    compare(lm, tmp_path, str(tiny_folder), 2, max_tokens=10, **settings)


@pytest.mark.slow
@pytest.mark.demo_model
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.3, "seed": 5}])
def test_both_ways_give_the_same_tokens_of_the_demo_model_with_its_tool_calls(
    demo_lm: tt.LoadedModel, tmp_path: Path, settings: dict[str, Any]
) -> None:
    assert compare(demo_lm, tmp_path, "smollm2-demo", 3, max_tokens=48, **settings) >= 2
