"""A run that is killed by SIGKILL at any moment resumes to the same tokens."""

import multiprocessing
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.generation.run_process import record_in_process


@dataclass
class Killing:
    """Runs of a child process that is killed and resumed until the run ends."""

    folder: Path
    which: str
    longest_s: float
    random: random.Random
    kills: int = 0
    mid_turn: int = 0
    runs: int = 0
    forks: Any = field(default_factory=lambda: multiprocessing.get_context("forkserver"))

    def uninterrupted(self) -> tuple[list[Any], float]:
        """Return the content of an uninterrupted run, and its seconds from first to last event."""
        url = f"sqlite:///{self.folder}/whole.db"
        process, _ = self._start(url, None)
        process.join()
        assert process.exitcode == 0
        with tt.open_store(url) as store:
            (summary,) = store.summaries()
            seconds = (summary.updated_at_us - summary.started_at_us) / 1e6
            return said(store.recording(summary.run_id)), seconds

    def one_run(self, kills: int) -> list[Any]:
        """Return the content of a run that is killed up to `kills` times."""
        url = f"sqlite:///{self.folder}/{self.runs}.db"
        self.runs += 1
        run_id: str | None = None
        while True:
            process, told = self._start(url, run_id)
            if kills > 0:
                time.sleep(self.random.uniform(0, self.longest_s))
                process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -9, "it ended by itself, and not well"
            kills -= 1
            self.kills += 1
            run_id = self._resumable(url, told)
        with tt.open_store(url) as store:
            (run_id,) = [each.run_id for each in store.summaries() if each.status == "finished"]
            assert tt.check(store, run_id).ok
            return said(store.recording(run_id))

    def _start(self, url: str, run_id: str | None) -> tuple[Any, str | None]:
        ours, theirs = self.forks.Pipe(duplex=False)
        process = self.forks.Process(
            target=record_in_process, args=(url, self.which, run_id, theirs)
        )
        process.start()
        theirs.close()
        try:
            return process, str(ours.recv())
        except EOFError:
            return process, None

    def _resumable(self, url: str, told: str | None) -> str | None:
        """Return the run id if the run can be resumed, or None to begin a new run."""
        with tt.open_store(url) as store:
            if told is None or store.summary(told) is None:
                return None
            recording = store.recording(told)
            kinds = [record.kind for record in recording.records()]
            if "SystemPromptCached" not in kinds:
                return None
            turns = recording.turns()
            self.mid_turn += bool(turns) and turns[-1].finished is None
            return told


def said(recording: tt.Recording) -> list[Any]:
    return [
        (turn.number, turn.first_step, turn.prompt_ids, turn.reply_ids, turn.reply_text)
        for turn in recording.turns()
    ]


def kill_and_resume(killing: Killing, kills: int, *, per_run: int) -> str:
    killing.forks.set_forkserver_preload(["tests.generation.talking"])
    whole, seconds = killing.uninterrupted()
    killing.longest_s = seconds
    assert len({number for number, *_ in whole}) == 20
    if killing.which == "tiny":
        assert any(first_step for _, first_step, *_ in whole), "no turn paused for a tool"
    while killing.kills < kills:
        resumed = killing.one_run(min(per_run, kills - killing.kills))
        assert resumed == whole
    return (
        f"{killing.kills} SIGKILLs over {killing.runs} runs of 20 turns on the {killing.which} "
        f"model, {killing.mid_turn} of them in the middle of a turn: "
        f"{sum(len(reply) for *_, reply, _ in whole)} tokens a run, all identical"
    )


@pytest.mark.slow
@pytest.mark.demo_model
def test_three_kills_lose_no_token_of_the_demo_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killing = Killing(tmp_path, "demo", longest_s=0.0, random=random.Random(12))
    figure = kill_and_resume(killing, 3, per_run=3)
    with capsys.disabled():
        print(f"\n{figure}")
