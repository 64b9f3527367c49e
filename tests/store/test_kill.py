"""Killed at any instant, a recording loses no token that was recorded."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt

# Says each token after it was recorded, and never stops by itself.
PROGRAM = """
import sys, tokentape as tt

lm = tt.load_model(sys.argv[1])
with tt.open_store(sys.argv[2]) as store:
    with tt.Investigation(lm, store=store, name="killed", system_prompt="Be kind.") as run:
        print("run", run.run_id, flush=True)
        say = lambda token_id, logits: print("token", token_id, flush=True)
        for turn in range(1000):
            run.chat("Go on.", max_new_tokens=30, min_new_tokens=30, do_sample=True, callback=say)
"""

Cli = Callable[..., tuple[int, str, str]]


def kill_after(tokens: int, model: Path, database: Path) -> tuple[str, list[int]]:
    """The run and the tokens that the process had said when SIGKILL was sent."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(model), str(database)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    run_id, said = "", []
    for line in process.stdout:
        word, value = line.split()
        if word == "run":
            run_id = value
        else:
            said.append(int(value))
        if len(said) == tokens:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return run_id, said


def assert_nothing_lost(database: Path, run_id: str, said: list[int], cli: Cli) -> None:
    with tt.open_store(database) as store:
        recording = store.recording(run_id)
        events = list(recording.events())
        turns = recording.turns()
        tokens = [token_id for turn in turns for token_id in turn.reply_ids]

        assert [each.seq for each in events] == list(range(len(events)))
        # The one in flight may be there, too.
        assert tokens[: len(said)] == said
        assert len(tokens) <= len(said) + 2
        assert tt.tokens_df(store, run_id)["token_id"].tolist() == tokens
        assert store.summaries()[0].status == "running"
        assert tt.rebuild(recording).turns[-1].tokens == turns[-1].tokens
    for command in ("show", "rebuild"):
        code, out, _ = cli(command, run_id, "--store", str(database))
        assert code == 0
        assert "cut off" in out or len(said) % 30 == 0


def test_sigkill_in_the_middle_of_a_turn_loses_no_token(
    tmp_path: Path, tiny_folder: Path, cli: Cli
) -> None:
    database = tmp_path / "runs.db"
    run_id, said = kill_after(47, tiny_folder, database)

    assert_nothing_lost(database, run_id, said, cli)
    with tt.open_store(database) as store:
        assert store.recording(run_id).turns()[-1].finished is None
        report = tt.verify(store.recording(run_id), tt.load_model(tiny_folder))
    assert report.verdict is tt.Verdict.VERIFIED


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 2, 29, 30, 31, 59, 60, 61, 90, 121])
def test_sigkill_at_any_token_loses_none(
    tmp_path: Path, tiny_folder: Path, cli: Cli, tokens: int
) -> None:
    run_id, said = kill_after(tokens, tiny_folder, tmp_path / "runs.db")

    assert_nothing_lost(tmp_path / "runs.db", run_id, said, cli)
