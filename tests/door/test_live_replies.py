"""Replies on a terminal while they are generated: their colours, and how far the run is."""

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from transformers import LogitsProcessorList

import tokentape as tt
from tests.forced import forced_reply
from tests.hostile import (
    forged_lines,
    guarded_terminal,
    hostile,
    on_terminal,
    raw_characters,
    without_ours,
)
from tests.made_plans import short_plan
from tokentape.commands.chat_terminal import StandardTerminal
from tokentape.generation.investigation.chat_session import ChatSession, EventTap
from tokentape.generation.plans import ExperimentPlan
from tokentape.recorder.escapes import visible_lines
from tokentape.turns_bar import plan_bar

BACKGROUND = re.compile(r"\x1b\[[0-9;]*48;5;\d+m")
STATUSES = re.compile(r"\x1bD\x1b\[1A\x1b7\x1b\[1B\r(turn [^\x1b]*)\x1b\[K\x1b8")


class Enough(Exception):
    """Ends a run in the middle of a reply."""


@pytest.fixture
def unfinished(lm: tt.LoadedModel, tmp_path: Path) -> str:
    """A store with a run that is in its second turn."""
    heard: list[int] = []

    def stop(token_id: int, logits: object) -> None:
        heard.append(token_id)
        if len(heard) == 6:
            raise Enough

    with tt.open_store(tmp_path / "runs.db") as store:
        run = tt.Investigation(lm, store=store, name="t", system_prompt="Look.", plan=PLAN)
        run.__enter__()
        run.chat("One?", max_new_tokens=4)
        with pytest.raises(Enough):
            run.chat("Go on?", max_new_tokens=20, min_new_tokens=20, do_sample=True, callback=stop)
    return str(tmp_path / "runs.db")


PLAN = ExperimentPlan.from_described(short_plan(name="three")).described()


def test_a_run_that_is_followed_on_a_terminal_has_colours_and_says_how_far_it_is(
    unfinished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokentape.commands.tail.tokenizer_as_recorded", lambda run: None)
    shown = on_terminal("tail", "--store", unfinished, "--no-follow").text
    (status,) = STATUSES.findall(shown)

    assert BACKGROUND.search(shown.partition("Go on?")[2])
    assert not BACKGROUND.search(shown.partition("surprise of each token")[0])
    assert re.fullmatch(r"turn 2/3: 6/20 tokens, [\d.]+ tokens/s, about \d+:\d\d left", status), (
        status
    )
    assert raw_characters(shown) == set()
    assert without_ours(shown).count(status) == 1


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_followed_run_is_plain_where_colours_are_not_wanted(
    unfinished: str,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., tuple[int, str, str]],
    variable: tuple[str, str],
) -> None:
    monkeypatch.setattr("tokentape.commands.tail.tokenizer_as_recorded", lambda run: None)
    if variable[0] == "TERM":
        monkeypatch.setattr("tests.hostile.TERMINAL", variable[1])
    plain = on_terminal(
        "tail", "--store", unfinished, "--no-follow", environment=dict([variable])
    ).text
    _, out, err = cli("tail", "--store", unfinished, "--no-follow")

    assert "\x1b[3" not in plain
    assert "\x1b[4" not in plain
    assert "surprise" not in plain
    assert STATUSES.search(plain) is None or variable[0] == "NO_COLOR"
    assert without_ours(STATUSES.sub("", plain)).replace("\r", "").endswith(out + err)


def test_a_chat_on_a_terminal_colours_the_reply_and_counts_its_tokens(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    monkeypatch.setattr("tokentape.streaming_text._STATUS_S", 0)
    where = ("--store", str(tmp_path / "c.db"), "--model", str(tiny_folder), "--system", "Hi.")
    shown = on_terminal("chat", *where, "--max-new-tokens", "9").text
    statuses = STATUSES.findall(shown)
    with tt.open_store(tmp_path / "c.db") as store:
        (turn,) = store.recording(store.summaries()[0].run_id).turns()

    assert BACKGROUND.search(shown.partition("4 or more")[2])
    assert "surprise of each token, in nats:" in shown
    assert statuses[0] == "turn 1: 1/9 tokens"
    assert re.search(r"8/9 tokens, [\d.]+ tokens/s, at most 0:0[01] left", " ".join(statuses))
    text = without_ours(STATUSES.sub("", shown)).replace("\r", "")
    assert f"{visible_lines(turn.reply_text)}\n" in text


def test_a_hostile_reply_is_escaped_in_colour_and_with_a_status(lm: tt.LoadedModel) -> None:
    forced = LogitsProcessorList([forced_reply(lm.tokenizer, [hostile("reply")])])
    settings = {"max_new_tokens": 400, "logits_processor": forced}
    tools = tt.default_tools(lm)

    class Typed(StandardTerminal):
        def lines(self):  # type: ignore[no-untyped-def]
            yield "Hello"

    with (
        pytest.MonkeyPatch.context() as patch,
        guarded_terminal() as received,
        tt.open_store("sqlite://") as store,
    ):
        patch.setattr("tokentape.streaming_text._STATUS_S", 0)
        terminal = Typed()
        tap = EventTap(store, terminal.on_event)
        with tt.Investigation(lm, store=tap, name="x", system_prompt="Hi.", tools=tools) as run:
            ChatSession(run, tools, tap, terminal, settings).run()
    shown = b"".join(received).decode()
    text = without_ours(STATUSES.sub("", shown))

    assert raw_characters(shown) == set()
    assert r"<reply\x1b[31;5;7m" in text
    assert forged_lines(STATUSES.sub("", shown)) <= {"reply"}


def line_of(plan: ExperimentPlan, columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the progress line of a run in its second turn, in a terminal."""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), width=columns, force_terminal=False)
    with plan_bar(plan, done=1) as bar:
        bar._progress.finish_turn(90_000_000)
        for _ in range(3):
            bar.token(0, None)
        bar._reused, bar._computed = 59_045, 3_902
        bar.token(0, None)
        console.print(bar._bar.get_renderable())
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_progress_of_a_plan_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"max_new_tokens": 2000}
    plan = ExperimentPlan.from_described(short_plan(name="long", limits=limits))
    clock = iter(1000 + number / 8 for number in range(100))
    monkeypatch.setattr("tokentape.turns_bar.time.perf_counter", lambda: next(clock))
    narrow, wide = (line_of(plan, columns, monkeypatch) for columns in (80, 160))
    expected = r"turn .+ 1/3 4/2,000 tokens, 8\.0 tokens/s, about 3:00 left"

    assert re.fullmatch(rf"{expected} *\n", narrow), narrow
    assert re.fullmatch(rf"{expected}, 59,045 reused, 3,902 computed *\n", wide), wide
