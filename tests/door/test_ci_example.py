"""The example in `examples/ci` works: its tapes replay, and its workflow uses existing options."""

import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import tokentape as tt
from tokentape.cli import app

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ci"
TAPES = sorted((EXAMPLE / "recordings").glob("*.tape"))
# No cache folder is left in the example, and no plugin is loaded that it does not need.
ALONE = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
WORKFLOW = EXAMPLE / ".github" / "workflows" / "replay.yml"


@pytest.mark.demo_model
def test_the_tapes_are_replayed_as_the_readme_says(tmp_path: Path) -> None:
    shown = ["--tapes", "recordings", "--tape-model", "smollm2-demo"]
    assert f"$ pytest {' '.join(shown)}\n" in (EXAMPLE / "README.md").read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *shown, *ALONE],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def test_git_shows_what_changed_in_a_tape_as_the_readme_says(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    """Recorded again: no line differs; with another message: only the lines of its turn."""
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert "\n*.tape diff=tape\n" in readme
    assert '$ git config diff.tape.textconv "tokentape rebuild"\n' in readme
    tape = tmp_path / "talk.tape"

    def git(*arguments: str) -> str:
        words = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
        return subprocess.run(
            words, cwd=tmp_path, check=True, capture_output=True, text=True, encoding="utf-8"
        ).stdout

    def record(message: str) -> None:
        with (
            tt.open_store("sqlite://") as store,
            tt.Investigation(lm, store=store, name="talk", system_prompt="Be kind.") as run,
        ):
            run.chat("Hello", max_new_tokens=4, do_sample=False)
            run.chat(message, max_new_tokens=4, do_sample=False)
            tape.unlink(missing_ok=True)
            tt.pack([store.recording(run.run_id)], store, tape)

    (tmp_path / ".gitattributes").write_text("*.tape diff=tape\n")
    record("And you?")
    git("init", "-q")
    git("config", "diff.tape.textconv", f"{shlex.quote(sys.executable)} -m tokentape rebuild")
    git("add", ".")
    git("commit", "-q", "-m", "Record")
    before = tape.read_bytes()
    record("And you?")
    again = git("diff", "talk.tape")
    record("And they?")
    changed = git("diff", "talk.tape").splitlines()

    assert tape.read_bytes() != before
    assert [line for line in again.splitlines() if line[:1] in "+-" and line[:3] not in HEADS] == []
    assert "-  user: And you?" in changed
    assert "+  user: And they?" in changed
    assert "   user: Hello" in changed
    assert not any(str(tmp_path) in line for line in changed)


HEADS = ("---", "+++")


def test_the_tapes_are_small_and_sealed_and_do_not_name_the_machine() -> None:
    assert [tape.name for tape in TAPES] == ["greedy.tape", "sampled.tape"]
    for tape in TAPES:
        assert tape.stat().st_size < 50_000
        with tt.open_store(tape) as store:
            (summary,) = store.summaries()
            assert tt.check(store, summary.run_id).is_sealed
            recording = store.recording(summary.run_id)
            started = recording.started()
            told = repr([record.body for record in recording.records()])
        assert started.model == "smollm2-demo"
        assert started.environment["platform"] == "Linux"
        assert platform.node() not in told or len(platform.node()) < 4
        assert not re.search(r"/(home|root|tmp|Users)/", told)


def test_a_greedy_tape_is_not_bound_to_a_random_stream() -> None:
    seeds = {}
    for tape in TAPES:
        with tt.open_store(tape) as store:
            (summary,) = store.summaries()
            turns = store.recording(summary.run_id).turns()
            seeds[tape.stem] = [turn.started.seed is not None for turn in turns]

    assert not any(seeds["greedy"])
    assert all(seeds["sampled"])


def steps() -> list[dict[str, Any]]:
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as a boolean.
    assert workflow[True].keys() == {"push", "pull_request"}
    (job,) = workflow["jobs"].values()
    found: list[dict[str, Any]] = job["steps"]
    return found


def test_the_workflow_uploads_its_reports_also_if_a_test_fails() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    (upload,) = [step for step in steps() if "upload-artifact" in step.get("uses", "")]

    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", each) for each in used)
    assert {each.partition("@")[0].rpartition("/")[2] for each in used} == {
        "cache",
        "checkout",
        "setup-python",
        "upload-artifact",
    }
    assert upload["if"] == "${{ !cancelled() }}"


def commands(name: str) -> list[list[str]]:
    """Return the words of each command in the workflow that begins with a name."""
    lines = [line.strip() for step in steps() for line in step.get("run", "").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(f"{name} ")]


def test_the_workflow_gives_pytest_options_that_it_has() -> None:
    (words,) = commands("pytest")
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], cwd=EXAMPLE, capture_output=True, text=True
    )
    asked = {word.partition("=")[0] for word in words if word.startswith("--")}

    assert asked >= {"--tapes", "--tape-model", "--junit-xml"}
    assert asked <= set(re.findall(r"--[\w-]+", told.stdout))


def test_the_workflow_gives_tokentape_commands_and_options_that_it_has() -> None:
    (words,) = commands("tokentape")
    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}

    assert {word for word in words if word.startswith("--")} <= known


def test_the_example_requires_the_versions_that_recorded_it() -> None:
    required = (EXAMPLE / "requirements.txt").read_text(encoding="utf-8")
    with tt.open_store(TAPES[0]) as store:
        (summary,) = store.summaries()
        recorded_torch = store.recording(summary.run_id).started().environment["torch"]

    assert f"tokentape=={tt.__version__}\n" in required
    assert f"torch=={recorded_torch.partition('+')[0]}\n" in required
