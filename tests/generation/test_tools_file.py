"""Python files with tools of one's own: what is read, run and recorded, and what is refused."""

import re
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.generation.calling_models import begun, events
from tokentape.generation.errors import ToolsFileError, ToolSourceWarning
from tokentape.generation.tools.tools_file import ToolsFile
from tokentape.recorder.events import RunResumed
from tokentape.store import DatabaseStore

Write = Callable[[str], Path]
DOUBLE = '''
    import tokentape as tt
    import dataclasses

    @dataclasses.dataclass
    class Held:
        by: "int" = 2

    @tt.tool(seconds_max=5)
    def double(number: int) -> int:
        """Double a number.

        Args:
            number: Any integer.
        """
        return Held().by * number
'''
GREEDY: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.setattr(sys, "path", [*sys.path])

    def in_folder(source: str) -> Path:
        path = tmp_path / "my_tools.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    return in_folder


def test_declared_functions_and_those_that_make_tools_returns_are_tools(
    lm: tt.LoadedModel, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "neighbour_of_tools.py").write_text("SIZE = 3\n")
    made = '''
    from neighbour_of_tools import SIZE

    def make_tools(lm):
        def size() -> list:
            """The sizes."""
            return [SIZE, lm.model.config.hidden_size]

        return tt.ToolInterface([size], on_error="raise")
    '''
    path = write(DOUBLE + made)
    tools = tt.default_tools(lm).including(tt.load_tools(path, lm))

    assert tools.names[-2:] == ("double", "size")
    assert tools.call("double", {"number": 4}).content == "8"
    assert tools.call("size", {}).content == "[3, 64]"
    assert tt.load_tools(path).names == ("double",)
    with pytest.raises(tt.ToolError, match="no argument 'at'"):
        tools.call("size", {"at": 1})
    with pytest.raises(tt.ToolError, match="two tools are called 'double'"):
        tools.including(tt.load_tools(path))


def test_what_is_compiled_is_what_is_hashed_and_it_runs_once(write: Write) -> None:
    path = write(DOUBLE + "\n    import sys\n    sys.runs = getattr(sys, 'runs', 0) + 1\n")
    file = ToolsFile.read(path)
    path.write_text("raise ValueError('changed')")
    try:
        assert file.tools(None).names == file.tools(None).names == ("double",)
        assert sys.runs == 1  # type: ignore[attr-defined]
    finally:
        del sys.runs  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = 1\ndef f(:\n", r"my_tools\.py, line 2: invalid syntax"),
        ("import tokentape\n\nimport no_such_module\n", r"line 3: ModuleNotFoundError: No module"),
        ("def f():\n    1 / 0\n\nf()\n", r"line 2: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
        ("def f(x):\n    return x\n", "has no tools: write @tt.tool above f, or a function make"),
        ("", "has no tools: write @tt.tool above a function, or a function make_tools"),
        ("import tokentape as tt\n@tt.tool\ndef f(x): ...\n", r"f \(.*my_tools.py:\d\) cannot"),
        ("def make_tools(lm):\n    return lm.nothing\n", "line 2: AttributeError"),
        ("def make_tools(lm):\n    return 3\n", "make_tools returned int, not a list of functions"),
        ("def make_tools(lm):\n    return []\n", "has no tools: make_tools returned none"),
        ("x = '\0'\n", "null bytes"),
        ("(" * 500, "my_tools.py"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_its_place(
    lm: tt.LoadedModel, write: Write, source: str, complaint: str
) -> None:
    with pytest.raises(ToolsFileError, match=complaint) as caught:
        tt.load_tools(write(source), lm)

    assert "\n" not in str(caught.value)
    assert "my_tools.py" in str(caught.value)


def test_missing_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolsFileError, match="No such file"):
        ToolsFile.read(tmp_path / "none.py")
    with pytest.raises(ToolsFileError, match="is a folder: name a Python file"):
        ToolsFile.read(tmp_path)
    with pytest.raises(ToolsFileError, match="cannot read the tools in /dev/zero"):
        ToolsFile.read("/dev/zero")


def test_two_tools_of_one_name_are_refused(lm: tt.LoadedModel, write: Write) -> None:
    again = "\n    def make_tools(lm):\n        return [double]\n"
    with pytest.raises(ToolsFileError, match=r"my_tools.py: two tools are called 'double'"):
        tt.load_tools(write(DOUBLE + again), lm)


def test_the_sources_are_recorded_and_a_change_is_told_when_the_run_continues(
    lm: tt.LoadedModel, store: DatabaseStore, write: Write
) -> None:
    def look() -> str:
        """Look."""
        return "here"

    def tools_of(path: Path) -> tt.ToolInterface:
        return tt.ToolInterface([look]).including(tt.load_tools(path))

    path = write(DOUBLE)
    call = tt.ToolCall(name="double", arguments={"number": 2})
    with begun(lm, store, tools=tools_of(path)) as run:
        run.chat("Look.", tool_calls=[call], **GREEDY)
    recording = store.recording(run.run_id)
    sources = recording.started().tool_sources

    assert sources["double"]["file"] == "my_tools.py"
    assert all(re.fullmatch("[0-9a-f]{64}", sources[name]["sha256"]) for name in sources)
    assert set(sources["look"]) == {"sha256"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", ToolSourceWarning)
        with tt.Investigation.resume(store, run.run_id, lm, tools=tools_of(path)):
            pass
        assert tt.verify(recording, lm, tools=tools_of(path)).tools == ()
    helper = write(DOUBLE + "\n    # another comment\n")
    with pytest.warns(ToolSourceWarning, match=r"the file my_tools.py .* of the tool double is"):
        tt.Investigation.fork(store, run.run_id, lm, at_turn=1, tools=tools_of(helper))
    changed = tools_of(write(DOUBLE.replace("Held().by", "3")))
    with pytest.warns(ToolSourceWarning, match="the source of the tool double is not the rec"):
        continued = tt.Investigation.resume(store, run.run_id, lm, tools=changed)
    with continued:
        pass
    resumed = events(store, run, RunResumed)
    assert [each.tool_sources["double"] == sources["double"] for each in resumed] == [True, False]
    with pytest.warns(ToolSourceWarning):
        assert tt.verify(recording, lm, tools=changed).verdict == tt.Verdict.DRIFTED


def test_a_run_that_is_continued_without_its_tools_names_their_file(
    lm: tt.LoadedModel, store: DatabaseStore, write: Write
) -> None:
    with begun(lm, store, tools=tt.load_tools(write(DOUBLE))) as run:
        run.chat("Look.", **GREEDY)
    with pytest.raises(tt.PromptError, match=r"missing here are double, of my_tools\.py; give"):
        tt.Investigation.resume(store, run.run_id, lm)


def test_tools_of_tokentape_have_no_source_of_their_own(lm: tt.LoadedModel) -> None:
    assert tt.default_tools(lm).sources() == {}
