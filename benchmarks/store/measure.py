"""Rounds in which every writer stores the same conversation, in rotating order."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from transformers import PreTrainedTokenizerBase

from benchmarks.rivals.environment import RIVALS, Rival, RivalMissingError, python_of, run_rival
from benchmarks.store.openai_logprobs import rival_task
from benchmarks.store.workload import Workload
from benchmarks.store.writers import WriteResult, write_bare, write_live, write_sealed

ROUNDS = 7
_TASK = "task.json"
Write = Callable[[Path], list[WriteResult]]
"""Stores the conversation once, in an empty folder that it may fill."""


@dataclass(slots=True)
class RoundResults:
    """The results of one writer, one for each round."""

    results: list[WriteResult] = field(default_factory=list)

    def ms_per_token(self, tokens: int) -> list[float]:
        """Return the time of the whole conversation over its tokens, for each round."""
        return [each.seconds * 1000 / tokens for each in self.results]

    def ms_of_tokens(self, tokens: int) -> list[float]:
        """Return the time of a token's own write; empty if tokens are not written one by one."""
        seconds = [each.token_seconds for each in self.results]
        return [each * 1000 / tokens for each in seconds if each is not None]

    @property
    def all_bytes(self) -> int:
        """Return the median: times and ids in the files compress differently in each round."""
        return round(median(each.all_bytes for each in self.results))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFigures:
    """The results of all writers."""

    tokens: int
    """Tokens of the conversation."""
    writers: Mapping[str, RoundResults]
    missing: Mapping[str, str]
    """Why a rival was not measured, by its name."""


def local_writers(workload: Workload) -> dict[str, Write]:
    """Return the writers that run in this process."""
    writers = {"live": write_live, "sealed": write_sealed, "bare": write_bare}
    return {name: partial(write, workload) for name, write in writers.items()}


def rival_writers(
    workload: Workload,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    environments: Path,
    notify: Callable[[str], None],
    rivals: Sequence[Rival] = RIVALS,
) -> tuple[dict[str, Write], dict[str, str]]:
    """Install the rivals; return their writers, and the reason for each that is missing."""
    task = folder / _TASK
    rival_task(workload, tokenizer).write(task)
    found: dict[str, Write] = {}
    missing: dict[str, str] = {}
    for rival in rivals:
        try:
            python = python_of(rival, environments, notify)
            found[rival.name] = partial(_write_with_rival, rival, python, task)
        except RivalMissingError as error:
            missing[rival.name] = str(error)
    return found, missing


def measure_store(
    writers: Mapping[str, Write],
    folder: Path,
    *,
    tokens: int,
    rounds: int = ROUNDS,
    missing: Mapping[str, str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> StoreFigures:
    """Run every writer once in each round.

    One more round, the first, warms up and is not counted. A rival that fails is not run again.
    """
    measured: dict[str, RoundResults] = {}
    failed = dict(missing or {})
    for number in range(rounds + 1):
        for name in _rotated([each for each in writers if each not in failed], number):
            target = folder / f"{number}-{name}"
            target.mkdir(parents=True)
            try:
                results = writers[name](target)
            except RivalMissingError as error:
                failed[name] = str(error)
                results = []
            for each in results:
                writer = measured.setdefault(each.name, RoundResults())
                if number:
                    writer.results.append(each)
            shutil.rmtree(target)
            tick()
    complete = {name: each for name, each in measured.items() if each.results}
    return StoreFigures(tokens=tokens, writers=complete, missing=failed)


def _write_with_rival(rival: Rival, python: Path, task: Path, folder: Path) -> list[WriteResult]:
    return [WriteResult(**row) for row in json.loads(run_rival(rival, python, task, folder))]


def _rotated(names: Sequence[str], number: int) -> list[str]:
    """Return the names rotated by the number of the round."""
    first = number % max(len(names), 1)
    return [*names[first:], *names[:first]]
