"""What a rival is given, and what it answers with: JSON in files, its output is its own."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """Questions and replies; `logprobs` has a row a token of each reply, as OpenAI spells them.

    `precise_logprobs` are the same with candidates in float32, as a model gives them: the others
    have the half precision that tokentape keeps.
    """

    system_prompt: str
    questions: list[str]
    replies: list[str]
    logprobs: list[list[dict[str, Any]]]
    precise_logprobs: list[list[dict[str, Any]]]

    def first_turn(self) -> "Talk":
        """To warm up with."""
        return Talk(
            system_prompt=self.system_prompt,
            questions=self.questions[:1],
            replies=self.replies[:1],
            logprobs=self.logprobs[:1],
            precise_logprobs=self.precise_logprobs[:1],
        )

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Talk":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A talk that a rival kept once; `precise_bytes` is what `precise_logprobs` take."""

    name: str
    seconds: float
    all_bytes: int
    precise_bytes: int
    when: str
    counted: str


def arguments() -> tuple[Talk, Path]:
    """The talk, and the folder that everything belongs into."""
    talk, folder = sys.argv[1:]
    return Talk.read(Path(talk)), Path(folder)


def answer(folder: Path, kept: Iterable[Kept]) -> None:
    rows = [asdict(each) for each in kept]
    (folder / "kept.json").write_text(json.dumps(rows), encoding="utf-8")
