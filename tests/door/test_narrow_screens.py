"""What commands print in terminals of 80 and 140 columns."""

import re
from collections.abc import Callable

import pytest

import tokentape as tt
from tests.hostile import on_terminal
from tokentape.recorder.escapes import visible_lines
from tokentape.replay.reports.tones import SCREEN_LINES, Line, with_verdict_last
from tokentape.screen import Table, out

STYLES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture(scope="module")
def recorded(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """A database with a run of two turns, with a long name, and the id of the run."""
    path = tmp_path_factory.mktemp("narrow") / "runs.db"
    name = "a name of many words " * 3
    with (
        tt.open_store(path) as store,
        tt.Investigation(make_lm("llama"), store=store, name=name, system_prompt="Hi.") as run,
    ):
        run.chat("Hello", max_new_tokens=12, do_sample=True, seed=3)
        run.chat("And?", max_new_tokens=12)
    return str(path), run.run_id


def shown(*arguments: str, columns: int) -> list[str]:
    """Return the lines that a command leaves in a terminal, without styles."""
    found = on_terminal(*arguments, columns=columns)

    assert found.code == 0, found.text
    return STYLES.sub("", found.text).replace("\r", "").split("\n")


@pytest.mark.parametrize("columns", [80, 140])
def test_tables_fit_the_terminal_and_no_id_is_cut(recorded: tuple[str, str], columns: int) -> None:
    store, run_id = recorded
    listed = shown("list", "--store", store, columns=columns)
    turns = shown("show", "--store", store, columns=columns)
    turns = turns[[" turn" in line and "prompt" in line for line in turns].index(True) :]

    # The beginning of an id names the run as well.
    assert any((run_id if columns > 110 else f"{run_id[:13]} ") in line for line in listed)
    assert any("20" in line and "finished" in line for line in listed)
    assert max(map(len, [*listed, *turns])) <= columns
    assert any("generated" in line for line in turns)


def test_columns_that_do_not_fit_are_named_below(recorded: tuple[str, str]) -> None:
    narrow, wide = (shown("show", "--store", recorded[0], columns=each) for each in (80, 140))

    assert any("not shown in 80 columns: computed, seconds" in line for line in narrow)
    assert not any("not shown" in line for line in wide)
    assert any("seconds" in line for line in wide)


def test_a_table_wraps_texts_before_it_drops_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("run")
    table.add_column("text", wrap=True)
    table.add_column("empty", if_any=True)
    table.add_column("least", drop=2)
    table.add_column("less", drop=1)
    table.add_row("0" * 36, "some words of a text", "", "x" * 20, "y" * 20)

    def drawn(columns: int) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tokentape.screen._PIPE_COLUMNS", columns)
            out.show(table)
        return capsys.readouterr().out

    assert all(each in drawn(120) for each in ("some words of a text", "x" * 20, "y" * 20))
    assert "empty" not in drawn(120)
    assert "some words of a text" not in drawn(100)
    assert "x" * 20 in drawn(100)
    assert "x" not in drawn(80).splitlines()[1]
    assert "not shown in 80 columns: least\n" in drawn(80)
    assert "not shown in 20 columns: least, less" in " ".join(drawn(20).split())
    assert "0" * 36 in drawn(20)


@pytest.mark.parametrize("columns", [80, 140])
def test_tokens_of_a_reply_fit_and_are_sorted(recorded: tuple[str, str], columns: int) -> None:
    turn = ("show", "--store", recorded[0], "--turn", "1")
    lines = shown(*turn, "--tokens", "--sort", "entropy", columns=columns)
    heading = next(number for number, line in enumerate(lines) if "entropy" in line)
    rows = [line for line in lines[heading + 1 :] if re.match(r" +\d+ +\d+ ", line)]
    entropies = [float(re.findall(r"\d+\.\d{3}", row)[1]) for row in rows]

    assert len(rows) == 12
    assert entropies == sorted(entropies, reverse=True)
    assert max(map(len, lines[heading:])) <= columns


def test_a_reply_is_printed_alone_for_a_pipe(
    recorded: tuple[str, str], cli: Callable[..., tuple[int, str, str]]
) -> None:
    store, run_id = recorded
    with tt.open_store(store) as opened:
        reply = opened.recording(run_id).turns()[0].reply_text
    code, out, err = cli("show", "--store", store, "--turn", "1", "--reply")

    assert (code, err) == (0, "")
    assert out == visible_lines(f"{reply}\n")
    for wrong in (("--reply",), ("--turn", "1", "--sort", "gap")):
        assert cli("show", "--store", store, *wrong)[0] == 2


def test_colours_are_for_terminals_that_have_them(
    recorded: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = ("show", "no-such-run", "--store", recorded[0])
    same = ("diff", "01", "01", "--store", recorded[0])
    coloured = [on_terminal(*command).text for command in (wrong, same)]

    assert "\x1b[1;31mtokentape: " in coloured[0]
    assert "\x1b[32mthe same" in coloured[1]
    monkeypatch.setattr("tests.hostile.TERMINAL", "dumb")
    assert "\x1b[" not in on_terminal(*same).text


def test_a_long_report_ends_with_its_verdict() -> None:
    lines: list[Line] = [(str(number), "plain") for number in range(SCREEN_LINES)]

    assert with_verdict_last(lines, [("DIVERGED", "bad")]) == lines
    longer = with_verdict_last([*lines, ("more", "plain")], [("DIVERGED", "bad")])
    assert longer[-2:] == [("", "plain"), ("DIVERGED", "bad")]
