"""Runs that are killed and resumed until they end, compared with an uninterrupted one."""

import random
from collections.abc import Iterator

from tests.generation.test_kill_resume import Killing
from tests.torture.tally import Row, Torture

_KILLS_OF_A_RUN = 3


def resumes(torture: Torture) -> Iterator[Row]:
    """Kill and resume runs of a tiny model with tool calls; their tokens must be the same."""
    row = Row("kill and resume")
    killing = Killing(torture.folder, "tiny", longest_s=0.0, random=random.Random(torture.seed))
    killing.forks.set_forkserver_preload(["tests.generation.run_process"])
    whole, killing.longest_s = killing.uninterrupted()
    kills = torture.count(40)
    while killing.kills < kills:
        with row.attempt(f"run {killing.runs}"):
            resumed = killing.one_run(min(_KILLS_OF_A_RUN, kills - killing.kills))
            assert resumed == whole, "the tokens differ from those of an uninterrupted run"
        if row.unexpected + row.silent > _KILLS_OF_A_RUN:
            break
    row.remark = f"{killing.kills} kills, {killing.mid_turn} in the middle of a turn"
    yield row
