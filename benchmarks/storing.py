"""The same conversation kept by everybody, round after round, in changed order."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

from transformers import PreTrainedTokenizerBase

from benchmarks.keepers import Kept, keep_bare, keep_live, keep_sealed
from benchmarks.rivals.environment import RIVALS, Rival, RivalMissingError, python_of, run_rival
from benchmarks.spelling import talk_of
from benchmarks.workload import Workload

ROUNDS = 7
_TALK = "talk.json"
Keep = Callable[[Path], list[Kept]]
"""Keeps the conversation once, in a folder of its own."""


@dataclass(slots=True)
class Contender:
    """What was kept under a name, a round each."""

    kept: list[Kept] = field(default_factory=list)

    def ms_per_token(self, tokens: int) -> list[float]:
        return [each.seconds * 1000 / tokens for each in self.kept]

    def ms_alone(self, tokens: int) -> list[float]:
        """Of the tokens alone; none where they are not kept one by one."""
        alone = [each.token_seconds for each in self.kept]
        return [seconds * 1000 / tokens for seconds in alone if seconds is not None]

    @property
    def all_bytes(self) -> int:
        """Files hold times and ids, and compress a little differently each round."""
        return round(median(each.all_bytes for each in self.kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFigures:
    """`missing` says why a rival was not measured."""

    tokens: int
    contenders: Mapping[str, Contender]
    missing: Mapping[str, str]


def keepers_of(workload: Workload) -> dict[str, Keep]:
    """Those in this process. The bare loop is the limit that all are compared with."""
    ways = {"live": keep_live, "sealed": keep_sealed, "bare": keep_bare}
    return {name: partial(way, workload) for name, way in ways.items()}


def rivals_of(
    workload: Workload,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    environments: Path,
    say: Callable[[str], None],
    rivals: Sequence[Rival] = RIVALS,
) -> tuple[dict[str, Keep], dict[str, str]]:
    """Those that can be installed, and why others cannot."""
    talk = folder / _TALK
    talk_of(workload, tokenizer).write(talk)
    found: dict[str, Keep] = {}
    missing: dict[str, str] = {}
    for rival in rivals:
        try:
            python = python_of(rival, environments, say)
            found[rival.name] = partial(_keep_rival, rival, python, talk)
        except RivalMissingError as error:
            missing[rival.name] = str(error)
    return found, missing


def measure_store(
    keepers: Mapping[str, Keep],
    folder: Path,
    *,
    tokens: int,
    rounds: int = ROUNDS,
    missing: Mapping[str, str] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> StoreFigures:
    """Every contender once a round, after a round to warm up; who fails is not asked again."""
    contenders: dict[str, Contender] = {}
    failed = dict(missing or {})
    for number in range(rounds + 1):
        for name in _turned([each for each in keepers if each not in failed], number):
            own = folder / f"{number}-{name}"
            own.mkdir(parents=True)
            try:
                kept = keepers[name](own)
            except RivalMissingError as error:
                failed[name] = str(error)
                kept = []
            for each in kept:
                contender = contenders.setdefault(each.name, Contender())
                if number:
                    contender.kept.append(each)
            shutil.rmtree(own)
            tick()
    measured = {name: each for name, each in contenders.items() if each.kept}
    return StoreFigures(tokens=tokens, contenders=measured, missing=failed)


def _keep_rival(rival: Rival, python: Path, talk: Path, folder: Path) -> list[Kept]:
    return [Kept(**row) for row in json.loads(run_rival(rival, python, talk, folder))]


def _turned(names: Sequence[str], number: int) -> list[str]:
    """Another one begins each round."""
    first = number % max(len(names), 1)
    return [*names[first:], *names[:first]]
