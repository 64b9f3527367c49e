"""Inspect AI: an evaluation of one sample, whose model returns prepared replies.

`python -m benchmarks.rivals.inspect_log TASK FOLDER`, in an environment with inspect-ai.
"""

import gc
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    Logprobs,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver

from benchmarks.rivals.task import RivalResult, RivalTask, arguments, write_results


class _Script:
    """The questions and replies, in a global: arguments of a solver or a model would be logged."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.outputs: Iterator[ModelOutput] = iter(())
        self.began = 0.0


_SCRIPT = _Script()


@modelapi(name="scripted")
class ScriptedModel(ModelAPI):
    """A model that returns the next prepared reply."""

    async def generate(self, *request: Any, **settings: Any) -> ModelOutput:
        return next(_SCRIPT.outputs)


@solver
def conversation() -> Solver:
    """Return a solver that asks the questions one after the other."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        # The start of an evaluation is not timed.
        _SCRIPT.began = time.perf_counter()
        for question in _SCRIPT.questions:
            state.messages.append(ChatMessageUser(content=question))
            state = await generate(state)
        return state

    return solve


def evaluate_task(
    task: RivalTask, logprobs: list[list[dict[str, Any]]], folder: Path, realtime: bool
) -> Any:
    """Run one evaluation; return its seconds from the first question on, and its bytes."""
    _SCRIPT.questions = task.questions
    outputs = [_output(*each) for each in zip(task.replies, logprobs, strict=True)]
    _SCRIPT.outputs = iter(outputs)
    gc.collect()
    (log,) = evaluate(
        Task(dataset=[Sample(input=_opening(task))], solver=conversation()),
        model="scripted/model",
        logprobs=True,
        top_logprobs=len(logprobs[0][0]["top_logprobs"]),
        display="none",
        log_dir=str(folder),
        log_format="eval",
        log_realtime=realtime,
        score=False,
    )
    seconds = time.perf_counter() - _SCRIPT.began
    if log.status != "success":
        raise SystemExit(f"the evaluation failed: {log.error}")
    return seconds, sum(path.stat().st_size for path in folder.glob("*.eval"))


def _opening(task: RivalTask) -> list[Any]:
    return [ChatMessageSystem(content=task.system_prompt)]


def _output(reply: str, logprobs: list[dict[str, Any]]) -> ModelOutput:
    choice = ChatCompletionChoice(
        message=ChatMessageAssistant(content=reply, model="model", source="generate"),
        stop_reason="max_tokens",
        logprobs=Logprobs.model_validate({"content": logprobs}),
    )
    usage = ModelUsage(output_tokens=len(logprobs))
    return ModelOutput(model="model", choices=[choice], usage=usage)


def _measured(task: RivalTask, folder: Path, realtime: bool) -> RivalResult:
    kind = "realtime" if realtime else "at once"
    seconds, size = evaluate_task(task, task.logprobs, folder / kind, realtime)
    float32_folder = folder / f"{kind}-float32"
    _, float32 = evaluate_task(task, task.float32_logprobs, float32_folder, realtime)
    meanwhile = "a buffer in SQLite meanwhile, " if realtime else ""
    return RivalResult(
        name=f"Inspect AI {version('inspect-ai')}, {kind}",
        seconds=seconds,
        when=f"{meanwhile}the file at the end",
        all_bytes=size,
        float32_bytes=float32,
        counted="the .eval file",
    )


def main() -> None:
    task, folder = arguments()
    for realtime in (True, False):
        evaluate_task(task.first_turn(), task.logprobs[:1], folder / f"warm-{realtime}", realtime)
    write_results(folder, [_measured(task, folder, realtime) for realtime in (True, False)])


if __name__ == "__main__":
    main()
