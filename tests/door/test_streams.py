"""Terminals that lack characters, readers that leave, full disks and closed streams."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from transformers import LogitsProcessorList

import tokentape as tt
from tests.forced import forced_reply
from tokentape.generation.investigation.chat_session import ChatSession, EventTap

COMMAND = (sys.executable, "-m", "tokentape")
NARROW = ("ascii:strict", "cp1252", "utf-8:strict")
SPOKEN = "漢🙂 é"

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def folder(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with `runs.db`: a run whose name, messages and replies are not ASCII."""
    made = tmp_path_factory.mktemp("streams")
    lm = make_lm("llama")
    with (
        tt.open_store(made / "runs.db") as store,
        tt.Investigation(lm, store=store, name="名前", system_prompt="Hi.", seed=7) as run,
    ):
        spoken = LogitsProcessorList([forced_reply(lm.tokenizer, [SPOKEN])])
        run.chat("漢字?", max_new_tokens=40, logits_processor=spoken)
    return made


@pytest.fixture
def run(folder: Path) -> Run:
    def start(*arguments: str, **settings: object) -> "subprocess.CompletedProcess[bytes]":
        environment = os.environ | settings.pop("env", {})  # type: ignore[operator]
        outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
        return subprocess.run([*COMMAND, *arguments], cwd=folder, env=environment, **outputs)  # type: ignore[call-overload,no-any-return]

    return start


@pytest.mark.parametrize("encoding", NARROW)
def test_a_terminal_that_lacks_characters_gets_escapes(run: Run, encoding: str) -> None:
    env = {"PYTHONIOENCODING": encoding}
    shown = run("show", "--turn", "1", "--store", "runs.db", env=env)
    page = run("show", "--turn", "1", "--json", "--store", "runs.db", env=env)
    name = encoding.partition(":")[0]

    assert (shown.returncode, page.returncode) == (0, 0)
    assert shown.stdout.decode(name).count(SPOKEN if name == "utf-8" else r"\u6f22") >= 1
    assert json.loads(page.stdout.decode(name))["started"]["name"] == "名前"
    assert SPOKEN in json.loads(page.stdout.decode(name))["turns"][0]["reply_text"]


@pytest.fixture
def left_pipe() -> Iterator[IO[bytes]]:
    """The writing end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        yield pipe


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [
        (("list", "--json"), ""),
        (("list",), "1"),
        (("show",), ""),
        (("tail", "--no-follow"), ""),
        (("--help",), "1"),
    ],
)
def test_a_reader_that_leaves_ends_a_command_quietly(
    run: Run, left_pipe: IO[bytes], command: tuple[str, ...], unbuffered: str
) -> None:
    store = () if command == ("--help",) else ("--store", "runs.db")
    done = run(*command, *store, stdout=left_pipe, env={"PYTHONUNBUFFERED": unbuffered})

    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize(("command", "unbuffered"), [(("check",), ""), (("--help",), "1")])
def test_a_full_disk_is_told_and_is_no_divergence(
    run: Run, command: tuple[str, ...], unbuffered: str
) -> None:
    store = () if command == ("--help",) else ("--store", "runs.db")
    with open("/dev/full", "wb") as full:
        done = run(*command, *store, stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
        unheard = run(*command, *store, stderr=full, env={"PYTHONUNBUFFERED": unbuffered})

    assert done.returncode == 2
    assert done.stderr == b"tokentape: cannot write to standard output: No space left on device\n"
    assert unheard.returncode == 0


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_no_exit_code(folder: Path, closed: str) -> None:
    line = f'"{sys.executable}" -m tokentape'
    for arguments, code in (("list --store runs.db", 0), ("list --store none.db", 2)):
        done = subprocess.run(f"{line} {arguments} {closed}", shell=True, cwd=folder)
        assert done.returncode == code, arguments


def test_following_a_run_ends_when_the_reader_leaves(folder: Path, tmp_path: Path) -> None:
    with tt.open_store(folder / "runs.db") as source, tt.open_store(tmp_path / "r.db") as store:
        for record in source.recording(source.summaries()[0].run_id).own_events():
            recorder = tt.Recorder(store, run_id=record.run_id)
            recorder.record(record.event)
            break
        command = [*COMMAND, "tail", "--store", str(tmp_path / "r.db")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.wait(timeout=60) == 141


class BrokenTerminal:
    """A terminal whose screen fails from the first character on."""

    def lines(self) -> Iterator[str]:
        yield from ("Hello\n", "Once more\n")

    def show(self, text: str) -> None:
        raise OSError("no screen")

    def note(self, text: str) -> None:
        raise OSError("no screen")


def test_a_failing_screen_loses_neither_the_turn_nor_the_run(lm: tt.LoadedModel) -> None:
    with tt.open_store("sqlite://") as store:
        tap, tools = EventTap(store), tt.default_tools(lm)
        with tt.Investigation(lm, store=tap, name="x", system_prompt="Hi.") as run:
            session = ChatSession(run, tools, tap, BrokenTerminal(), {"max_new_tokens": 4})
            session.run()
        (summary,) = store.summaries()

    assert str(session.fault) == "no screen"
    assert (summary.status, summary.turns, summary.generated_tokens) == ("finished", 1, 4)


def test_a_chat_is_recorded_whatever_the_screen_can_show(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    where = ("--store", str(tmp_path / "c.db"), "--model", str(tiny_folder), "--system", "Hi.")
    typed = "漢字 hello\n".encode()
    chatted = run(
        "chat", *where, "--max-new-tokens", "4", input=typed, env={"PYTHONIOENCODING": "ascii"}
    )
    with tt.open_store(tmp_path / "c.db") as store:
        (summary,) = store.summaries()
        said = store.recording(summary.run_id).messages()[1].content

    assert chatted.returncode == 0, chatted.stderr
    assert (summary.status, summary.turns) == ("finished", 1)
    # Without a locale Python declares ASCII, and what is typed is UTF-8.
    assert said == "漢字 hello"


def test_a_chat_whose_reader_leaves_finishes_its_turn(
    run: Run, left_pipe: IO[bytes], tiny_folder: Path, tmp_path: Path
) -> None:
    where = ("--store", str(tmp_path / "c.db"), "--model", str(tiny_folder), "--system", "Hi.")
    done = run("chat", *where, "--max-new-tokens", "4", input=b"One\nTwo\n", stdout=left_pipe)
    with tt.open_store(tmp_path / "c.db") as store:
        (summary,) = store.summaries()

    assert done.returncode == 141
    assert (summary.status, summary.turns, summary.generated_tokens) == ("finished", 1, 4)
