"""The fixture `tape_model`: an application's tests that play a tape."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.door.test_pytest_plugin import run_pytest

APPLICATION = """
def conversation(make_run, *questions):
    with make_run(name="app", system_prompt="Be kind.", seed=3) as run:
        return [run.chat(each, max_new_tokens=3, do_sample=True) for each in questions]
"""
TESTS = """
import sys

import pytest
from application import conversation


def test_two(tape_model):
    replies = conversation(tape_model.investigation, "One?", "Two?")
    assert [each.turn for each in replies] == [1, 2]
    assert tape_model.new_run_ids or "torch" not in sys.modules


class TestGroup:
    @pytest.mark.parametrize("word", ["a/b", "ü"])
    def test_word(self, tape_model, word):
        assert conversation(tape_model.investigation, f"What of {word}?")


@pytest.mark.tape("tapes/test_app/test_two.tape")
def test_changed(tape_model):
    conversation(tape_model.investigation, "One?", "Too?")


@pytest.mark.tape("tapes/test_app/test_two.tape", all_used=True)
def test_short(tape_model):
    conversation(tape_model.investigation, "One?")


@pytest.mark.tape("tapes/test_app/test_two.tape", mode="warn")
def test_warned(tape_model):
    with pytest.warns(UserWarning, match="first token that differs"):
        conversation(tape_model.investigation, "One?", "Too?")


def test_without():
    assert not {"torch", "pandas", "sqlalchemy"} & sys.modules.keys()
"""
RECORDED = ("test_app.py::test_two", "test_app.py::TestGroup")
TAPES = {
    "test_two.tape": ("One?", "Two?"),
    "TestGroup.test_word[a%2Fb].tape": ("What of a/b?",),
    "TestGroup.test_word[%5Cxfc].tape": ("What of ü?",),
}
"""The names of the tapes of the tests, and what is asked in them."""


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory, make_lm: Callable[..., tt.LoadedModel]
) -> Path:
    """A project with tests that play their tapes."""
    project = tmp_path_factory.mktemp("project")
    (project / "application.py").write_text(APPLICATION)
    (project / "test_app.py").write_text(TESTS, encoding="utf-8")
    names: dict[str, Any] = {}
    exec(APPLICATION, names)
    folder = project / "tapes" / "test_app"
    folder.mkdir(parents=True)
    for name, questions in TAPES.items():
        with tt.playback(folder / name, mode="passthrough", model=make_lm()) as tape:
            names["conversation"](tape.investigation, *questions)
            tape.save()
    return project


def test_an_equal_application_passes_and_a_changed_one_fails_with_turn_and_token(
    recorded: Path,
) -> None:
    done = run_pytest(recorded, "-p", "no:cacheprovider")
    out = done.stdout

    assert done.returncode == 1
    assert "1 failed, 6 passed, 1 error" in out
    assert "turn 2, round 1: the user's message is not the recorded one" in out
    assert "recorded 'w'" in out
    assert "now 'oo?'" in out
    assert "did not ask for turn 2 of run 'app'" in out
    # The report is below the line of the application, not of ours.
    assert "application.py:4: PlaybackMismatchError" in out
    assert "player.py" not in out


def test_workers_of_xdist_play_tapes(recorded: Path) -> None:
    done = run_pytest(recorded, "-n", "2", *RECORDED, "test_app.py::test_without")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_the_option_comes_before_the_marker_and_the_ini_file(recorded: Path) -> None:
    changed = ("test_app.py::test_changed",)
    warned = run_pytest(recorded, *changed, "--tape-playback", "warn")
    ini = run_pytest(recorded, *changed, "-o", "tape_playback=warn")
    wrong = run_pytest(recorded, *changed, "-o", "tape_playback=wran")
    strict = run_pytest(recorded, "test_app.py::test_warned", "--tape-playback", "strict")

    assert "1 passed, 1 warning" in warned.stdout
    assert "1 passed, 1 warning" in ini.stdout
    assert "tape_playback: one of strict, warn, passthrough, not 'wran'" in wrong.stdout
    assert strict.returncode == 1


def test_a_test_that_passes_replaces_its_tape_and_one_that_fails_does_not(
    recorded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    before = (recorded / "tapes" / "test_app" / "test_two.tape").read_bytes()
    tests = (
        "import pytest\nfrom application import conversation\n"
        'def test_new(tape_model):\n    conversation(tape_model.investigation, "New?")\n'
    )
    for name in ("fails", "passes"):
        (tmp_path / f"{name}.tape").write_bytes(before)
        tests += (
            f'@pytest.mark.tape("{name}.tape")\ndef test_{name}(tape_model):\n'
            '    conversation(tape_model.investigation, "One?", "Too?")\n'
            f"    assert {name == 'passes'}\n"
        )
    (tmp_path / "test_own.py").write_text(tests)
    done = run_pytest(tmp_path, "--tape-update", "--tape-model", str(tiny_folder))

    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert f"tape updated: {tmp_path / 'tapes' / 'test_own' / 'test_new.tape'}" in done.stdout
    assert f"tape updated: {tmp_path / 'passes.tape'}" in done.stdout
    assert (tmp_path / "fails.tape").read_bytes() == before
    assert (tmp_path / "passes.tape").read_bytes() != before
    assert "2 passed" in run_pytest(tmp_path, "-k", "passes or new").stdout


def test_a_missing_tape_a_wrong_marker_and_an_update_in_ci_are_refused(
    recorded: Path, tmp_path: Path
) -> None:
    (tmp_path / "test_none.py").write_text(
        "import pytest\n"
        "def test_none(tape_model): pass\n"
        "@pytest.mark.tape('x.tape', moode='warn')\ndef test_marker(tape_model): pass\n"
    )
    done = run_pytest(tmp_path, "--strict-markers")
    in_ci = run_pytest(tmp_path, "--tape-update", CI="true")

    assert f"there is no tape at {tmp_path}/tapes/test_none/test_none.tape" in done.stdout
    assert "@pytest.mark.tape takes a path, run, mode, rerun_tools, all_used, and not moode" in (
        done.stdout
    )
    assert "2 errors" in done.stdout
    assert in_ci.returncode == 4
    assert "--tape-update: CI is set" in in_ci.stderr


def test_a_tape_that_plays_can_be_replayed_too(recorded: Path, lm: tt.LoadedModel) -> None:
    with tt.open_store(recorded / "tapes" / "test_app" / "test_two.tape") as store:
        (run,) = store.summaries()
        assert tt.verify(store.recording(run.run_id), lm).passes
