"""Killed at any instant, a recording loses nothing that was recorded.

`make torture` kills many more: see `tests/torture/kills.py`.
"""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy.engine import make_url

import tokentape as tt
from tests.postgres import own_server
from tests.store.crash import Process, Processes, Said, digest, processes, record_script
from tokentape.store import DatabaseStore

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


@pytest.fixture(scope="module")
def recorders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("pipes")) as started_here:
        yield started_here


@dataclass
class Figures:
    kills: int = 0
    before_opening: int = 0
    acknowledged: int = 0
    in_flight: int = 0
    lost: int = 0
    blobs: int = 0

    def count(self, said: Said, kept: int) -> None:
        self.kills += 1
        self.before_opening += not said.opened
        self.acknowledged += len(said.events)
        self.in_flight += max(0, kept - len(said.events))
        self.lost += max(0, len(said.events) - kept)
        self.blobs += len(said.blobs)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills ({self.before_opening} before the store was open), "
            f"{self.acknowledged:,} events and {self.blobs:,} blobs acknowledged, {self.lost} "
            f"events lost, 0 holes, {self.in_flight} in flight were stored as well"
        )


def killed_somewhere(process: Process, chance: random.Random) -> Said:
    """After a random time, or at once after a random event."""
    if chance.random() < 0.5:
        process.follow(seconds=chance.uniform(0, chance.choice((0.05, 0.4))))
    else:
        process.follow(seconds=30, events=chance.randrange(1, 120))
        time.sleep(chance.choice((0, 0, chance.uniform(0, 0.01))))
    said = process.kill()
    assert said.error == ""
    return said


def kept_of(store: DatabaseStore, said: Said, *, durable_only: bool = False) -> int:
    """How many events of the run are there, once all that must hold was seen to hold."""
    if said.run_id not in {each.run_id for each in store.summaries()}:
        assert said.events == []
        return 0
    records = list(store.recording(said.run_id).records())
    must = said.durable if durable_only else len(said.events)
    digests = [digest(record) for record in records]
    common = min(len(digests), len(said.events))

    assert [record.seq for record in records] == list(range(len(records)))
    assert must <= len(records) <= len(said.events) + 1
    assert digests[:common] == said.events[:common]
    for sha256 in said.blobs if not durable_only else ():
        assert hashlib.sha256(store.blob(sha256)).hexdigest() == sha256
    found = tt.check(store, said.run_id)
    assert found.faults == ()
    assert found.sealed_turns >= len(store.recording(said.run_id).turns()) - 1
    return len(records)


def torture_file(
    folder: Path, recorders: Processes, kills: int, *, concurrent: bool, seed: int
) -> Figures:
    """Kill processes that record into one file after another; a few in each, one at a time.

    With `concurrent`, another process records into the file all the while, and must not notice.
    """
    chance = random.Random(seed)
    figures = Figures()
    while figures.kills < kills:
        path = folder / f"{figures.kills}.db"
        bystander = recorders.start(path, "bystander", turns=20) if concurrent else None
        all_said = []
        for _ in range(min(chance.randrange(1, 6), kills - figures.kills)):
            process = recorders.start(path, "killed", tokens=chance.choice((1, 6, 30)))
            said = killed_somewhere(process, chance)
            all_said.append(said)
            with tt.open_store(path) as store:
                assert isinstance(store, DatabaseStore)
                figures.count(said, kept_of(store, said))
        with tt.open_store(path) as store:
            assert isinstance(store, DatabaseStore)
            another = record_script(store, "another")
            if bystander is not None:
                all_said.append(bystander.wait())
                assert all_said[-1].finished, all_said[-1].error
            for said in all_said:
                kept_of(store, said)
            assert tt.check(store, another).ok
            assert store.verify_files("") == []
    return figures


@pytest.mark.parametrize("concurrent", [False, True], ids=["alone", "next to another"])
def test_sigkill_loses_nothing_that_was_acknowledged(
    tmp_path: Path, recorders: Processes, concurrent: bool
) -> None:
    figures = torture_file(tmp_path, recorders, 4, concurrent=concurrent, seed=1)

    assert figures.lost == 0
    assert figures.acknowledged > 0


def torture_client(url: str, recorders: Processes, kills: int, *, seed: int) -> Figures:
    """Kill processes that record into PostgreSQL, but not the server."""
    chance = random.Random(seed)
    figures = Figures()
    for _ in range(kills):
        process = recorders.start(url, "killed", tokens=chance.choice((1, 6, 30)))
        said = killed_somewhere(process, chance)
        with tt.open_store(url) as store:
            assert isinstance(store, DatabaseStore)
            figures.count(said, kept_of(store, said))
            assert tt.check(store, record_script(store, "another")).ok
    return figures


def test_sigkill_loses_nothing_that_postgresql_was_given(
    postgres_url: str, recorders: Processes
) -> None:
    assert torture_client(postgres_url, recorders, 3, seed=3).lost == 0


def kill_server(server: Any, chance: random.Random) -> None:
    """All of its processes at once, as a loss of power would."""
    postmaster = psutil.Process(server.get_pid())
    family = [*postmaster.children(recursive=True), postmaster]
    chance.shuffle(family)
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=30)


def torture_server(recorders: Processes, kills: int, *, seed: int) -> Figures:
    chance = random.Random(seed)
    figures = Figures()
    with own_server() as server:
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        where = url.render_as_string(hide_password=False)
        all_said = []
        for _ in range(kills):
            # Both die: a recorder that is left writes what the server lost again.
            alone = {"TOKENTAPE_DATABASE_WAIT": "0"}
            tokens = chance.choice((1, 6, 30))
            process = recorders.start(where, "cut off", tokens=tokens, environment=alone)
            process.follow(seconds=30, events=1)
            process.follow(seconds=chance.uniform(0, 1))
            kill_server(server, chance)
            said = process.wait()
            assert said.error.startswith("error StoreError: cannot"), said.error
            server.ensure_postgres_running()
            all_said.append(said)
            with tt.open_store(where) as store:
                assert isinstance(store, DatabaseStore)
                kept = kept_of(store, said, durable_only=True)
                figures.count(said, kept)
                for each in all_said:
                    kept_of(store, each, durable_only=True)
                assert tt.check(store, record_script(store, "another")).ok
    return figures


def test_a_killed_server_keeps_what_was_durable_and_has_no_hole(recorders: Processes) -> None:
    assert torture_server(recorders, 1, seed=5).acknowledged > 0
