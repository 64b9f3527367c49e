"""Tasks of Inspect AI for a tiny model, and their evaluation."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser
from inspect_ai.solver import Solver, generate
from inspect_ai.tool import Tool, tool

import tokentape as tt
from tokentape.inspect_provider.open_models import OPEN_MODELS
from tokentape.store import DatabaseStore

Evaluate = Callable[..., EvalLog]
END = "<|im_end|>"
ASKED = f"?{END}\n<|im_start|>assistant\n"
"""The end of a prompt whose last message is a question, and not the result of a tool."""
IGNORED_WARNINGS = [
    # Inspect calls tenacity so, and leaves a stream of each sample open.
    pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]


@contextmanager
def no_model_is_left() -> Iterator[None]:
    """Close the models of a test, and collect the streams that Inspect left open."""
    try:
        yield
    finally:
        for each in list(OPEN_MODELS):
            each.close()
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()


@contextmanager
def evaluations(model: Path, folder: Path) -> Iterator[Evaluate]:
    """Yield a function that evaluates a task on a model, recorded in a folder, for its log."""

    def run(task: Task, **more: Any) -> EvalLog:
        arguments = {"store": store_url(folder), **more.pop("model_args", {})}
        settings = {"max_tokens": 12, "temperature": 0.9, **more}
        (log,) = evaluate(
            task,
            model=f"tokentape/{model}",
            model_args=arguments,
            display="none",
            log_dir=str(folder / "logs"),
            **settings,
        )
        return log

    with no_model_is_left():
        yield run


def store_url(folder: Path) -> str:
    return f"sqlite:///{folder}/runs.db"


@tool
def add() -> Tool:
    async def execute(x: int, y: int) -> str:
        """Add two numbers.

        Args:
            x: The first number.
            y: The second number.
        """
        return str(x + y)

    return execute


def questions(count: int, *solvers: Solver, **more: Any) -> Task:
    dataset = [
        Sample(
            id=f"s{index}",
            input=[
                ChatMessageSystem(content="Be kind."),
                ChatMessageUser(content=f"What is {index}?"),
            ],
            target="never",
        )
        for index in range(count)
    ]
    return Task(dataset=dataset, solver=list(solvers or (generate(),)), name="sums", **more)


def forcing(tokenizer: Any, text: str, *, after: str = ASKED) -> dict[str, Any]:
    """Return settings that make any model reply with a text to each prompt that ends so.

    They are biases, which a recording has: replays draw the same tokens.
    """
    before = tokenizer.encode(after, add_special_tokens=False)
    reply = tokenizer.encode(text + END, add_special_tokens=False)
    whole = before + reply
    ends = range(len(before) + 1, len(whole) + 1)
    biases = [[whole[max(0, end - len(before) - 1) : end], 1000.0] for end in ends]
    return {"extra_body": {"sequence_bias": biases}, "max_tokens": len(reply) + 5}


def samples_of(log: EvalLog) -> list[EvalSample]:
    assert log.status == "success", log.error
    assert log.samples is not None
    for each in log.samples:
        assert each.error is None, each.error.message
    return log.samples


def run_ids(sample: EvalSample) -> list[str]:
    return list(sample.store.get("tokentape_runs", []))


def recordings(store: DatabaseStore, log: EvalLog) -> list[tt.Recording]:
    return [store.recording(each) for sample in samples_of(log) for each in run_ids(sample)]


def replies(store: DatabaseStore, log: EvalLog) -> dict[str, list[tuple[int, ...]]]:
    """Return the ids of the replies of each sample and epoch."""
    return {
        f"{sample.id}/{sample.epoch}": [
            turn.reply_ids for run_id in run_ids(sample) for turn in store.recording(run_id).turns()
        ]
        for sample in samples_of(log)
    }
