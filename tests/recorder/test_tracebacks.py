"""Tracebacks as text: without folders of the machine, with causes, and limited in size."""

import json
from pathlib import Path

import pytest

from tokentape.recorder.tracebacks import CHARS_MAX, traceback_text


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


def raised(error: BaseException) -> BaseException:
    try:
        try:
            json.loads("{")
        except ValueError as cause:
            raise error from cause
    except BaseException as caught:
        return caught


def test_files_are_named_without_the_folders_of_the_machine() -> None:
    text = traceback_text(raised(RuntimeError("mine")))

    assert 'File "json/decoder.py", line ' in text
    assert 'File "tests/recorder/test_tracebacks.py", line ' in text
    assert "raise error from cause" in text
    assert text.endswith("RuntimeError: mine\n")
    assert 'File "/' not in text


def test_a_file_in_no_known_folder_is_named_by_its_last_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    source = "def f():\n    raise ValueError('x')\nf()"
    with pytest.raises(ValueError, match="x") as caught:
        exec(compile(source, str(tmp_path / "tools.py"), "exec"))

    assert 'File "tools.py", line 2, in f' in traceback_text(caught.value)
    assert str(tmp_path) not in traceback_text(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        Mute(),
        ValueError("half: \ud83d"),
        ValueError("x" * 10 * CHARS_MAX),
        ExceptionGroup("several", [ValueError("a"), Mute()]),
        SyntaxError("bad", ("/home/me/x.py", 1, 1, "x", 1, 1)),
    ],
    ids=["mute", "surrogate", "long", "group", "syntax"],
)
def test_any_exception_has_a_text_of_limited_length(error: BaseException) -> None:
    text = traceback_text(raised(error))

    assert type(error).__name__ in text
    assert len(text) <= CHARS_MAX
    assert "/home/me" not in text
