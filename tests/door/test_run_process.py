"""A run whose process is gone is shown as such, can be closed, and says how it would be resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt
from tokentape.recorder import process
from tokentape.recorder.events import RunFailed, RunResumed, RunStarted
from tokentape.recorder.process import ProcessState, state_of, this_process
from tokentape.store import DatabaseStore, close_run, process_of

Cli = Callable[..., tuple[int, str, str]]

RECORDING = """
import sys, time
import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, tiny_model
lm = tiny_model("llama", byte_tokenizer())
with tt.open_store(sys.argv[1]) as store:
    with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.", seed=7) as run:
        run.chat("One?", max_new_tokens=3)
        def wait(token_id, logits):
            if len(store.recording(run.run_id).turns()[-1].tokens) == 4:
                print(run.run_id, flush=True)
                time.sleep(600)
        run.chat("Two?", max_new_tokens=9, callback=wait)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with a run that was killed in its second turn, after four tokens; and its id."""
    database = tmp_path_factory.mktemp("killed") / "runs.db"
    command = [sys.executable, "-W", "ignore", "-c", RECORDING, str(database)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as recorder:
        assert recorder.stdout is not None
        run_id = recorder.stdout.readline().strip()
        with tt.open_store(database) as store:
            summary = store.summary(run_id)
            assert isinstance(store, DatabaseStore)
            assert summary is not None
            found = process_of(store, summary)
            assert found is not None
            assert (found.state, found.pid) == (ProcessState.ALIVE, recorder.pid)
            with pytest.raises(tt.StoreError, match="may still be recorded, its process"):
                close_run(store, store.recording(run_id))
        recorder.send_signal(signal.SIGKILL)
    return database, run_id


@pytest.fixture
def copy(killed: tuple[Path, str], tmp_path: Path) -> tuple[Path, str]:
    """A copy of the store, to be changed."""
    database, run_id = killed
    tape = tmp_path / "runs.db"
    for each in database.parent.iterdir():
        (tape.parent / each.name).write_bytes(each.read_bytes())
    return tape, run_id


def test_a_process_is_told_from_a_later_one_and_from_one_elsewhere() -> None:
    mine = this_process()
    changes = {
        "alive": {},
        "gone": {"started": -1},
        "unknown": {"host": "another"},
    }

    assert {state: str(state_of(mine | change)) for state, change in changes.items()} == {
        state: state for state in changes
    }
    assert state_of(mine | {"boot": "earlier"}) is ProcessState.GONE
    assert state_of(mine | {"namespace": "pid:[1]"}) is ProcessState.UNKNOWN
    assert state_of({}) is ProcessState.UNKNOWN
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        zombie = mine | {"pid": child.pid, "started": process._start_of(child.pid)}
        assert state_of(zombie) is ProcessState.GONE


def test_a_run_whose_process_is_gone_is_listed_and_shown_as_such(
    killed: tuple[Path, str], cli: Cli
) -> None:
    where = ("--store", str(killed[0]))
    (row,) = json.loads(cli("list", "--json", *where)[1])
    code, _, err = cli("tail", *where)
    page = json.loads(cli("show", "--json", "--turn", "1", *where)[1])

    assert "running (process gone)" in cli("list", *where)[1]
    assert "on this machine is gone; last event 2" in cli("show", *where)[1]
    assert (row["status"], row["process"]["state"]) == ("running", "gone")
    assert page["process"] == row["process"]
    assert (row["process"]["host"], code) == (this_process()["host"], 0)
    assert f"resume the run with `tokentape resume {killed[1]}`, or close it" in err


def test_a_closed_run_has_failed_and_can_be_resumed(
    copy: tuple[Path, str], cli: Cli, lm: tt.LoadedModel
) -> None:
    database, run_id = copy
    where = ("--store", str(database))
    code, out, _ = cli("close", run_id, *where)
    again = cli("close", run_id, *where, "--force")
    with tt.open_store(database) as store:
        assert isinstance(store, DatabaseStore)
        ended = list(store.recording(run_id).events())[-1].event
        assert tt.check(store, run_id).ok
        with tt.Investigation.resume(store, run_id, lm) as resumed:
            assert resumed.resumed_reply is not None
            assert len(resumed.resumed_reply.token_ids) == 9

    assert (code, out.startswith(f"closed run {run_id}: its process ")) == (0, True)
    assert isinstance(ended, RunFailed)
    assert ended.error == "RunClosed"
    assert "closed with `tokentape close`: process" in ended.message
    assert again[0] == 2
    assert f"run {run_id} has ended: failed" in again[2]


def test_a_run_of_another_machine_is_closed_by_force_only(
    copy: tuple[Path, str], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    where = ("--store", str(copy[0]))
    code, _, err = cli("close", copy[1], *where)

    assert "running (unknown here)" in cli("list", *where)[1]
    assert code == 2
    assert "is unknown on this machine; last event" in err
    assert cli("close", copy[1], *where, "--force")[0] == 0


def test_resuming_says_first_what_it_does(
    killed: tuple[Path, str], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, run_id = killed
    said = f"run {run_id}: 1 turn is finished; turn 2 was cut off after 4 tokens and continues"
    _, out, _ = cli("resume", run_id, "--dry-run", "--store", str(database))
    outlook = json.loads(cli("resume", "--dry-run", "--json", "--store", str(database))[1])
    with tt.open_store(database) as store:
        assert store.summaries()[0].status == "running"

    assert out.startswith(said)
    assert "recorded with" not in out
    assert (outlook["cut_off_turn"], outlook["kept_tokens"], outlook["differences"]) == (2, 4, [])
    monkeypatch.setattr(
        "tokentape.generation.fingerprints.environment", lambda device: {"torch": "9.9"}
    )
    _, changed, _ = cli("resume", run_id, "--dry-run", "--store", str(database))
    assert ", now 9.9" in changed
    assert "sdpa_backends flash efficient math cudnn, now none" in changed


def test_the_recording_process_is_named_when_a_run_begins_and_is_resumed(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
        run.chat("One?", max_new_tokens=2)
    with tt.Investigation.resume(store, run.run_id, lm):
        pass
    events = [each.event for each in store.recording(run.run_id).events()]
    named = [each.process for each in events if isinstance(each, RunStarted | RunResumed)]

    assert named == [this_process()] * 2
    assert named[0]["pid"] == os.getpid()


def test_a_redactor_rewrites_the_host(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    host = this_process()["host"]
    with tt.Investigation(
        lm,
        store=store,
        name="x",
        system_prompt="Hi.",
        redactor=lambda text: text.replace(host, "HOST"),
    ) as run:
        run.chat("One?", max_new_tokens=2)

    assert store.recording(run.run_id).started().process["host"] == "HOST"


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version") == (0, f"tokentape {tt.__version__}\n", "")


def test_an_unknown_run_points_to_the_list(killed: tuple[Path, str], cli: Cli) -> None:
    code, _, err = cli("show", "nope", "--store", str(killed[0]))

    assert code == 2
    assert "has no run 'nope': `tokentape list` shows its runs" in err
