"""Inspect AI: an evaluation of one sample, whose model says what it is told.

`python -m benchmarks.rivals.inspect_log TALK FOLDER`, in an environment with inspect-ai.
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

from benchmarks.rivals.talk import Kept, Talk, answer, arguments


class _Script:
    """What is said next. Arguments of a solver or a model would be logged, too."""

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.outputs: Iterator[Any] = iter(())
        self.began = 0.0


_SCRIPT = _Script()


@modelapi(name="told")
class Told(ModelAPI):
    async def generate(self, *asked: Any, **settings: Any) -> ModelOutput:
        return next(_SCRIPT.outputs)


@solver
def conversation() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        # Here, so that the start of an evaluation is not counted.
        _SCRIPT.began = time.perf_counter()
        for question in _SCRIPT.questions:
            state.messages.append(ChatMessageUser(content=question))
            state = await generate(state)
        return state

    return solve


def keep(talk: Talk, logprobs: list[list[dict[str, Any]]], folder: Path, realtime: bool) -> Any:
    """The seconds that one evaluation took from its first question on, and its bytes."""
    _SCRIPT.questions = talk.questions
    outputs = [_output(*each) for each in zip(talk.replies, logprobs, strict=True)]
    _SCRIPT.outputs = iter(outputs)
    gc.collect()
    (log,) = evaluate(
        Task(dataset=[Sample(input=_opening(talk))], solver=conversation()),
        model="told/model",
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


def _opening(talk: Talk) -> list[Any]:
    return [ChatMessageSystem(content=talk.system_prompt)]


def _output(reply: str, logprobs: list[dict[str, Any]]) -> Any:
    choice = ChatCompletionChoice(
        message=ChatMessageAssistant(content=reply, model="model", source="generate"),
        stop_reason="max_tokens",
        logprobs=Logprobs(content=logprobs),
    )
    usage = ModelUsage(output_tokens=len(logprobs))
    return ModelOutput(model="model", choices=[choice], usage=usage)


def _kept(talk: Talk, folder: Path, realtime: bool) -> Kept:
    kind = "realtime" if realtime else "at once"
    seconds, size = keep(talk, talk.logprobs, folder / kind, realtime)
    _, precise = keep(talk, talk.precise_logprobs, folder / f"{kind}-precise", realtime)
    meanwhile = "a buffer in SQLite meanwhile, " if realtime else ""
    return Kept(
        name=f"Inspect AI {version('inspect-ai')}, {kind}",
        seconds=seconds,
        when=f"{meanwhile}the file at the end",
        all_bytes=size,
        precise_bytes=precise,
        counted="the .eval file",
    )


def main() -> None:
    talk, folder = arguments()
    for realtime in (True, False):
        keep(talk.first_turn(), talk.logprobs[:1], folder / f"warm-{realtime}", realtime)
    answer(folder, [_kept(talk, folder, realtime) for realtime in (True, False)])


if __name__ == "__main__":
    main()
