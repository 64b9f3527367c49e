"""The task that a rival reads and the results that it writes, as JSON files."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalTask:
    """The conversation to store."""

    system_prompt: str
    questions: list[str]
    replies: list[str]
    logprobs: list[list[dict[str, Any]]]
    """For each reply and token an entry of OpenAI's `logprobs.content`.

    Top log-probabilities have the half precision of a tokentape recording.
    """
    float32_logprobs: list[list[dict[str, Any]]]
    """The same with top log-probabilities in float32, as a model computes them."""

    def first_turn(self) -> "RivalTask":
        """Return the first turn alone, to warm up."""
        return RivalTask(
            system_prompt=self.system_prompt,
            questions=self.questions[:1],
            replies=self.replies[:1],
            logprobs=self.logprobs[:1],
            float32_logprobs=self.float32_logprobs[:1],
        )

    def write(self, path: Path) -> None:
        """Write the task to a file."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "RivalTask":
        """Read a task that `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalResult:
    """The time and the bytes of storing the task once: fields of `store.writers.WriteResult`."""

    name: str
    seconds: float
    all_bytes: int
    float32_bytes: int
    when: str
    counted: str


def arguments() -> tuple[RivalTask, Path]:
    """Return the task and the folder to write into, from the command line."""
    task, folder = sys.argv[1:]
    return RivalTask.read(Path(task)), Path(folder)


def write_results(folder: Path, results: Iterable[RivalResult]) -> None:
    """Write the results to `results.json`."""
    rows = [asdict(each) for each in results]
    (folder / "results.json").write_text(json.dumps(rows), encoding="utf-8")
