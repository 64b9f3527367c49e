"""Text that streams to a terminal: colours by surprise, and a progress line below it."""

import io
import sys
from collections.abc import Iterable
from itertools import pairwise

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import ColorSystem

from tokentape import screen, streaming_text
from tokentape.recorder.escapes import VisibleLines, visible_lines
from tokentape.streaming_text import StreamingText
from tokentape.surprise_colors import BOUNDS_NATS, style_of

Pieces = Iterable[tuple[str, float | None]]
STATUS = "turn 1/3: 5/9 tokens"
VARIABLES = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM", "TERM", "COLUMNS")


class Stream(io.StringIO):
    """A standard stream that is a terminal, or a pipe."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def written(
    pieces: Pieces, *, out: bool = True, err: bool = True, columns: int = 20, **environment: str
) -> tuple[str, str]:
    """Return what is written to standard output, and with it or apart to standard error."""
    stdout = Stream(out)
    stderr = stdout if out and err else Stream(err)
    environment = {"TERM": "xterm-256color", "COLUMNS": str(columns)} | environment
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        patch.setattr(streaming_text, "_STATUS_S", 0)
        # A mark at the beginning would belong to the last text of another test.
        patch.setattr(screen.out, "_visible", VisibleLines())
        text = StreamingText()
        text.show_legend()
        for piece, surprise in pieces:
            text.add(piece, surprise)
            text.status(STATUS)
        text.clear()
    return stdout.getvalue(), stderr.getvalue()


def shown(received: str, columns: int, rows: int) -> list[str]:
    """Return the rows that a terminal shows, those that it has scrolled away first."""
    terminal = pyte.HistoryScreen(columns, rows, history=1000)
    terminal.set_mode(pyte.modes.LNM)
    pyte.Stream(terminal).feed(received)
    above = ["".join(row[x].data for x in range(columns)) for row in terminal.history.top]
    found = [each.rstrip() for each in (*above, *terminal.display)]
    while found and not found[-1]:
        found.pop()
    return found


@pytest.mark.parametrize(
    ("out", "environment", "has_colors"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"FORCE_COLOR": "1", "TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"COLORTERM": "truecolor"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_for_terminals_that_have_them_and_users_that_want_them(
    out: bool, environment: dict[str, str], has_colors: bool
) -> None:
    pieces = [("plain ", 0.1), ("odd", 9.0)]
    found, _ = written(pieces, out=out, err=False, **environment)

    assert ("\x1b[" in found) == has_colors
    if not has_colors:
        assert found == "plain odd"


@given(st.lists(st.tuples(st.text(max_size=5), st.none() | st.floats(0, 20)), max_size=12))
def test_a_pipe_gets_the_text_and_nothing_else(pieces: list[tuple[str, float | None]]) -> None:
    text = "".join(piece for piece, _ in pieces)
    out, err = written(pieces, out=False, err=False)

    assert (out, err) == (visible_lines(text), "")


LETTERS = st.text(st.sampled_from("abc é漢\n\t\x1b😀"), max_size=9)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(LETTERS, st.none() | st.floats(0, 9)), max_size=12),
    st.integers(21, 30),
    st.integers(3, 12),
)
def test_a_terminal_shows_the_text_as_if_no_status_had_been_drawn(
    pieces: list[tuple[str, float | None]], columns: int, rows: int
) -> None:
    plain, _ = written(pieces, err=False, columns=columns, NO_COLOR="1")
    both, _ = written(pieces, columns=columns, NO_COLOR="1")
    colored, _ = written([*pieces, ("x", 9.0)], columns=columns)
    legend = colored.partition("\n")[0] + "\n"

    assert shown(both, columns, rows) == shown(plain, columns, rows)
    assert shown(colored, columns, rows) == shown(f"{legend}{plain}x", columns, rows)


def test_the_status_is_below_the_text_and_gone_before_the_next_piece() -> None:
    terminal = pyte.Screen(30, 4)
    terminal.set_mode(pyte.modes.LNM)
    stream = pyte.Stream(terminal)
    received, _ = written([("one\ntwo\nthree\nfo", 0.0), ("ur", 0.0)], columns=30, NO_COLOR="1")
    first, _, rest = received.partition("\x1b8")
    stream.feed(f"{first}\x1b8")
    with_status = [each.rstrip() for each in terminal.display]
    stream.feed(rest)

    # The text has moved up to make room.
    assert with_status == ["two", "three", "fo", STATUS]
    assert [each.rstrip() for each in terminal.display] == ["two", "three", "four", ""]


def test_a_status_is_alone_on_its_line_where_the_text_goes_elsewhere() -> None:
    out, err = written([("one", 0.0), ("two", 0.0)], out=False, columns=12)

    assert out == "onetwo"
    assert STATUS[:11] in err
    assert STATUS[:12] not in err
    assert "\n" not in err
    assert shown(err, 12, 3) == []


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "unknown"}])
def test_a_terminal_that_cannot_move_its_cursor_gets_no_status(environment: dict[str, str]) -> None:
    assert written([("one\n", 9.0)], **environment)[0] == "one\n"
    assert written([("one\n", 9.0)], out=True, err=False, NO_COLOR="1") == ("one\n", "")


def cells(pieces: Pieces, **environment: str) -> dict[str, tuple[str, str, bool]]:
    """Return the foreground, background and weight in which each letter of a text is shown."""
    received, _ = written(pieces, err=False, **environment)
    terminal = pyte.Screen(20, 4)
    pyte.Stream(terminal).feed(received)
    row = terminal.buffer[0]
    return {each.data: (each.fg, each.bg, each.bold) for each in map(row.__getitem__, range(20))}


def test_the_more_surprising_a_token_the_lighter_its_background() -> None:
    pieces = [("a", 0.9), ("b", 1.0), ("c", 2.5), ("d", 4.0), ("e", 0.0)]

    assert cells(pieces, COLORTERM="truecolor") == {
        "a": ("default", "default", False),
        "b": ("ffffff", "3b4a6b", False),
        "c": ("000000", "8c8a86", False),
        "d": ("000000", "f4d94b", True),
        "e": ("default", "default", False),
        " ": ("default", "default", False),
    }


def test_a_token_whose_text_comes_with_the_next_passes_its_surprise_on() -> None:
    found = cells([("a", 0.0), ("", 5.0), ("b", 1.0), ("c", 1.0)], COLORTERM="truecolor")

    assert [found[each][1] for each in "abc"] == ["default", "f4d94b", "3b4a6b"]


@pytest.mark.parametrize("system", list(ColorSystem))
def test_levels_differ_in_every_kind_of_terminal(system: ColorSystem) -> None:
    styles = [style_of(bound, system) for bound in BOUNDS_NATS]
    codes = {each.render("x", color_system=system) for each in styles if each is not None}

    assert len(codes) == 3
    assert style_of(0.99, system) is None


def luminance(color: tuple[int, int, int]) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = (each / 255 for each in color)
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


def test_text_can_be_read_on_each_background_and_lightness_gives_the_order() -> None:
    grounds = []
    for bound in BOUNDS_NATS:
        style = style_of(bound, ColorSystem.TRUECOLOR)
        assert style is not None
        assert style.color is not None
        assert style.bgcolor is not None
        text, ground = (luminance(each.get_truecolor()) for each in (style.color, style.bgcolor))
        high, low = max(text, ground) + 0.05, min(text, ground) + 0.05
        grounds.append(ground)

        assert high / low > 4.5
    assert all((light + 0.05) / (dark + 0.05) > 1.5 for dark, light in pairwise(grounds))


def test_the_legend_is_shown_once_and_only_with_colours() -> None:
    colored, _ = written([("x", 0.0)], columns=100)
    plain, _ = written([("x", 0.0)], columns=100, NO_COLOR="1")
    (line, text) = shown(colored, 100, 5)[:2]

    assert line == "surprise of each token, in nats: below 1  1 to 2  2 to 4  4 or more"
    assert text == "x"
    assert shown(plain, 100, 5) == ["x"]
