"""Hostile texts in chats, replays, reports and pytest, and in what libraries write."""

import json
import logging
import shutil
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tqdm import tqdm
from transformers import LogitsProcessorList

import tokentape as tt
from tests.door.test_pytest_plugin import run_pytest
from tests.forced import forced_reply
from tests.hostile import (
    Forger,
    forged_lines,
    guarded_terminal,
    hostile,
    on_terminal,
    raw_characters,
)
from tests.samplers import GREEDY
from tests.store.made_runs import floor_of, verdict_of
from tokentape import output
from tokentape.commands.chat_terminal import StandardTerminal
from tokentape.generation.errors import ToolFailedWarning
from tokentape.generation.investigation.chat_session import ChatSession, EventTap
from tokentape.recorder import Record
from tokentape.recorder.errors import TokentapeWarning
from tokentape.replay import Floor
from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR, version_of
from tokentape.screen import err, out
from tokentape.store import DatabaseStore

REPLAYABLE = "ffffffff-0000-7000-8000-000000000000"
ORDINARY = (
    "é 中文 한국어 かな العربية می\u200cخواهم क्\u200dष "
    "👩\u200d💻 ❤\ufe0f 1\ufe0f\u20e3 👍🏽 ×–…“”\n\tx"
)


def talk(lm: tt.LoadedModel, store: tt.EventLog) -> str:
    """Record a run whose every text that a user, a tool or a model may give is hostile."""
    forced = forced_reply(lm.tokenizer, [hostile("reply"), hostile("second reply")])
    call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": hostile("argument")})
    with tt.Investigation(
        tt.LoadedModel(lm.model, lm.tokenizer, hostile("model")),
        store=store,
        name=hostile("name"),
        system_prompt=hostile("system"),
        tools=tt.default_tools(lm),
    ) as run:
        settings = {"max_new_tokens": 600, "logits_processor": LogitsProcessorList([forced])}
        with pytest.warns(ToolFailedWarning) as told:
            run.chat(hostile("first message"), tool_calls=[call], **settings)
        assert raw_characters(str(told[0].message)) == set()
        assert "\n" not in str(told[0].message)
        run.chat(hostile("second message"), **settings)
        run.chat("And?", max_new_tokens=3, **GREEDY)
    return run.run_id


@pytest.fixture(scope="module")
def talked(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A database with such a run, twice, and with hostile verdicts and floors."""
    path = tmp_path_factory.mktemp("talked") / "talked.db"
    lm = make_lm("llama", max_position_embeddings=4096)
    with tt.open_store(path) as store:
        assert isinstance(store, DatabaseStore)
        for _ in range(2):
            run_id = talk(lm, store)
            text = hostile("verdict")
            report = {"reason": text, "model": text, "turns": [], text: text}
            store.add_verdict(verdict_of(run_id, report=report))
            store.add_floor(floor_of(run_id))
        records = list(store.recording(run_id).records())
    with Forger(path) as forger:
        forger.add(REPLAYABLE, run_id, [replayable(each) for each in records])
    return path


def replayable(record: Record) -> Record:
    """Return a record of a turn that does not name what made the model say its reply."""
    if record.kind != "TurnStarted" or not isinstance(record.body, str):
        return record
    return replace(record, body=json.dumps(json.loads(record.body) | {"unreplayable": []}))


@pytest.mark.parametrize(
    "command",
    [
        "show --turn 1 --turn 2",
        "show --turn 1 --json",
        "tail --no-follow -n 0",
        "rebuild",
        "check",
        "list",
        "diff",
        "diff --turn 1",
        "diff --json",
        "verify {run} --model {model} --html {out}.html --junit {out}.xml",
        "verify {run} --model {model} --json",
        "verify {run} --model {model} --tools rerun",
        "retrace {run} --model {model} --html {out}.html --junit {out}.xml",
        "regenerate {run} --model {model} --html {out}.html --junit {out}.xml",
        "calibrate {run} --model {model}",
    ],
)
def test_a_run_of_hostile_texts(
    talked: Path, tiny_folder: Path, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "report"
    words = command.format(run=REPLAYABLE, model=tiny_folder, out=path).split()
    shown = on_terminal(*words, "--store", str(talked))

    assert raw_characters(shown.text) == set()
    assert "unexpected" not in shown.text
    assert not forged_lines(shown.text) & {"name", "model", "argument", "verdict"}
    assert shown.code in (0, 1)
    if "--html" in words:
        check_reports(path)


def check_reports(path: Path) -> None:
    """Check that the reports have no raw character, and that neither is markup of the text's."""
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    junit = path.with_suffix(".xml").read_text(encoding="utf-8")

    assert raw_characters(page) == raw_characters(junit) == set()
    assert r"name\x1b[31;5;7m" in junit
    assert hostile("name") not in page
    assert "".join(ElementTree.fromstring(junit).itertext()).isprintable() is False


def test_a_reply_that_commands_the_terminal_is_escaped_while_it_is_streamed(
    lm: tt.LoadedModel,
) -> None:
    forced = LogitsProcessorList([forced_reply(lm.tokenizer, [hostile("reply")])])
    settings = {"max_new_tokens": 400, "logits_processor": forced}
    tools = tt.default_tools(lm)

    class Typed(StandardTerminal):
        def lines(self):  # type: ignore[no-untyped-def]
            yield hostile("typed")
            yield "/tool " + hostile("tool")
            yield "/" + hostile("command")

    with guarded_terminal() as received, tt.open_store("sqlite://") as store:
        tap = EventTap(store)
        with tt.Investigation(lm, store=tap, name="x", system_prompt="Hi.", tools=tools) as run:
            ChatSession(run, tools, tap, Typed(), settings).run()
    shown = b"".join(received).decode()

    assert raw_characters(shown) == set()
    assert r"<reply\x1b[31;5;7m" in shown
    assert forged_lines(shown) <= {"reply"}


def test_what_libraries_write_is_escaped_and_their_bars_move() -> None:
    text = hostile("library")
    with guarded_terminal() as received:
        handler = logging.StreamHandler()
        logging.getLogger("a library").addHandler(handler)
        logging.getLogger("a library").error(text)
        logging.getLogger("a library").removeHandler(handler)
        print(text)
        print(text, file=sys.stderr)
        try:
            raise ValueError(text)
        except ValueError:
            traceback.print_exc()
        sys.stdout.writelines([text])
        for _ in tqdm(range(2), desc=text.replace("\n", ""), ncols=600):
            pass
    shown = b"".join(received).decode()

    assert shown.count(r"<library\x1b[31;5;7m") >= 7
    assert raw_characters(shown) == {"\r"}
    assert all(each.startswith(("<", "\n")) for each in shown.split("\r")[1:])


def test_what_is_written_during_a_bar_or_a_spinner_is_shown_above_it() -> None:
    text = hostile("above")
    with guarded_terminal() as received:
        with output.working(hostile("spinner")):
            print(text, file=sys.stderr)
            err.line(text)
            print("no line end", file=sys.stderr, end="")
        with output.progress("steps", "{task.fields[what]}") as bar:
            bar.add_task("", total=2, what=hostile("what"))
            err.line(text)
    shown = b"".join(received).decode()

    assert raw_characters(shown) == set()
    assert shown.count(r"<above\x1b[31;5;7m") == 3
    assert shown.count("no line end") == 1
    assert r"<spinner\x1b[31;5;7m" in shown
    assert "[bold]b[/bold]" in shown


@pytest.mark.parametrize("error", [tt.StoreError, tt.ModelError, tt.NothingToReplayError])
def test_the_message_of_an_error_is_escaped_where_python_shows_it(
    error: type[Exception],
) -> None:
    shown = "".join(traceback.format_exception(error(hostile("error"))))

    assert raw_characters(shown) == set()
    assert raw_characters(str(TokentapeWarning(hostile("warning")))) == set()


def test_ordinary_text_is_shown_as_it_is() -> None:
    with guarded_terminal() as received:
        out.text(ORDINARY)
        for each in ORDINARY:
            print(each, end="")
        out.console().print(ORDINARY, soft_wrap=True, end="")
    shown = b"".join(received).decode()

    assert shown.startswith(ORDINARY * 2)
    assert shown.count("👩\u200d💻") == 3


def test_escaping_costs_less_than_a_tenth_of_a_millisecond_a_token() -> None:
    piece = "Some words and 中文字 that a model says, é and ❤. " * 2
    with guarded_terminal():
        began = time.process_time()
        for _ in range(1000):
            out.text(piece)
        spent = time.process_time() - began

    assert spent < 1.0


def test_pytest_shows_no_raw_text_of_a_tape(talked: Path, tmp_path: Path) -> None:
    with tt.open_store(talked) as store:
        recordings = [store.recording(each.run_id) for each in store.summaries()]
        tt.pack(recordings, store, tmp_path / "hostile.tape")
    options = ("--tapes", ".", "-vv", "-rA", "--color=no", "--junitxml=out.xml")
    for mode in ("rebuild", "verify"):
        done = run_pytest(tmp_path, *options, f"--tape-mode={mode}")

        assert done.returncode in (0, 1)
        assert "turn 1" in done.stdout
        assert raw_characters(done.stdout + done.stderr) == set()
        assert raw_characters((tmp_path / "out.xml").read_text(encoding="utf-8")) == set()


def test_pytest_refuses_a_tape_whose_name_commands_the_terminal(tmp_path: Path) -> None:
    name = hostile("tape")[:200].replace("/", "").replace("\n", "")
    (tmp_path / f"{name}.tape").write_bytes(b"PK")
    done = run_pytest(tmp_path, "--tapes", ".")

    assert done.returncode == 4
    assert raw_characters(done.stdout + done.stderr) == set()
    assert "rename" in done.stderr


def test_verdicts_and_floors_of_a_stranger(talked: Path, tiny_folder: Path, tmp_path: Path) -> None:
    path = shutil.copy(talked, tmp_path / "verdicts.db")
    text = hostile("column")
    floor = zlib.compress(json.dumps(asdict(hostile_floor())).encode())
    with Forger(path) as forger:
        forger.execute("UPDATE verdicts SET replay = ?, verdict = ?, reason = ?", text, text, text)
        forger.execute("UPDATE verdicts SET model = ?, floor_version = ?", text, text)
        forger.execute("UPDATE floors SET version = ?, floor = ?", text, floor)
    for command in ("check", "check --json", "list", "show", f"verify --model {tiny_folder}"):
        shown = on_terminal(*command.split(), "--store", str(path))

        assert raw_characters(shown.text) == set()
        assert forged_lines(shown.text) <= {"first message", "reply"}


def test_a_floor_file_of_a_stranger(talked: Path, tiny_folder: Path, tmp_path: Path) -> None:
    floor = tmp_path / "floor.json"
    tt.write_floor(hostile_floor(), floor)
    words = ("verify", REPLAYABLE, "--model", str(tiny_folder), "--store", str(talked))
    shown = on_terminal(*words, "--floor", str(floor), "--no-keep")

    assert r"<measured\x1b[31;5;7m" in shown.text
    assert raw_characters(shown.text) == set()
    assert "measured" not in forged_lines(shown.text)


def hostile_floor() -> Floor:
    floor = replace(DEFAULT_FLOOR, measured_on=hostile("measured"))
    return replace(floor, version=version_of(floor))
