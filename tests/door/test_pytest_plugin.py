"""Tapes replayed by pytest in a project whose own packages are named like our rooms."""

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import tokentape as tt
from tests.store.made_families import record_family
from tokentape.plugin.child import child_environment
from tokentape.store import DatabaseStore

OWN_TESTS = """
import sys

import recorder, replay, store


def test_packages_of_ones_own():
    assert store.WHOSE == replay.WHOSE == recorder.WHOSE == "mine"


def test_nothing_heavy_is_loaded():
    heavy = {"tokentape.store", "torch", "transformers", "pandas", "pyarrow"}

    assert not heavy & sys.modules.keys()
"""


def talk(lm: tt.LoadedModel, store: tt.EventLog, name: str) -> str:
    """Record three turns (greedy with a tool, sampled, greedy), and return the run's id."""
    look = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": "model.norm.weight"})
    with tt.Investigation(
        lm,
        store=store,
        name=name,
        system_prompt="Be kind.",
        tools=tt.default_tools(lm),
        seed=7,
    ) as run:
        run.chat("What of the norm?", tool_calls=[look], max_new_tokens=6)
        run.chat("And?", max_new_tokens=6, do_sample=True, temperature=0.8, top_p=0.9)
        run.chat("So?", max_new_tokens=6, repetition_penalty=1.2)
    return run.run_id


def pack_talk(folder: Path, name: str, tape: Path) -> None:
    """Write a tape of the model in a folder; the recording calls the model by `name`."""
    loaded = tt.load_model(folder)
    lm = tt.LoadedModel(loaded.model, loaded.tokenizer, name)
    with tt.open_store("sqlite://") as store:
        tt.pack([store.recording(talk(lm, store, "probe"))], store, tape)


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A project with packages of our names, a model, and a tape of it; to be copied."""
    project = tmp_path_factory.mktemp("consumer") / "project"
    for name in ("store", "replay", "recorder"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text('WHOSE = "mine"\n')
    (project / "tests").mkdir()
    (project / "tests" / "test_own.py").write_text(OWN_TESTS)
    shutil.copytree(tiny_folder, project / "models" / "tiny")
    pack_talk(tiny_folder, "models/tiny", project / "recordings" / "probe.tape")
    return project


@pytest.fixture
def project(consumer: Path, tmp_path: Path) -> Path:
    return shutil.copytree(consumer, tmp_path / "project")


def run_pytest(
    project: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "CI", "PYTHONPATH"))
    }
    # Hypothesis is imported by a plugin of its own, which takes longer than all the rest.
    alone = ("-p", "no:hypothesispytest")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *alone, *arguments],
        cwd=project,
        env=inherited | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )


def results(junit: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the failure text and the properties of each test case, by its name."""
    found = {}
    for case in ET.parse(junit).iter("testcase"):
        failure = case.find("failure")
        properties = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
        text = "" if failure is None else str(failure.text)
        found[f"{case.get('classname')}::{case.get('name')}"] = (text, properties)
    return found


def change_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.05
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_turns_are_items_and_a_changed_weight_fails_those_of_its_model(project: Path) -> None:
    changed = project / "models" / "changed"
    shutil.copytree(project / "models" / "tiny", changed)
    pack_talk(changed, "models/changed", project / "recordings" / "changed.tape")
    change_weight(changed)
    options = ("--tapes", "recordings", "--junitxml=out.xml", "--tape-html", "reports")
    done = run_pytest(project, *options)
    found = results(project / "out.xml")

    assert done.returncode == 1
    assert sorted(each.name for each in (project / "reports").iterdir()) == [
        "recordings-changed.tape.html",
        "recordings-probe.tape.html",
    ]
    assert "not what was recorded: weights" in (
        project / "reports" / "recordings-changed.tape.html"
    ).read_text(encoding="utf-8")
    assert "3 failed, 5 passed" in done.stdout, done.stdout
    assert list(found) == [
        *(f"recordings.changed.tape::turn {turn}" for turn in (1, 2, 3)),
        *(f"recordings.probe.tape::turn {turn}" for turn in (1, 2, 3)),
        "tests.test_own::test_packages_of_ones_own",
        "tests.test_own::test_nothing_heavy_is_loaded",
    ]
    for turn in (1, 2, 3):
        text, properties = found[f"recordings.probe.tape::turn {turn}"]
        assert (text, properties["verdict"]) == ("", "verified")
        assert float(properties["margin_max"]) < 1e-3
        assert float(properties["logprob_difference_max"]) < 1e-4
        text, properties = found[f"recordings.changed.tape::turn {turn}"]
        assert text.startswith("incomparable: not what was recorded: weights")
        first_line = text.partition("\n")[0]
        assert "(1 token differs: --tape-update records it again)" in first_line
        assert properties["verdict"] == "incomparable"
        assert "weights" in properties["causes"]
        assert float(properties["logprob_difference_max"]) > 1e-4
    assert done.stdout.count("weights differs: recorded") == 1
    assert done.stdout.count("the whole recording: see turn 1") == 2
    assert "Traceback" not in done.stdout


def test_workers_of_xdist_replay_a_tape_each(project: Path) -> None:
    shutil.copy(project / "recordings" / "probe.tape", project / "recordings" / "second.tape")
    xdist = ("-p", "xdist", "--strict-markers", "--tapes", "recordings")
    done = run_pytest(
        project, *xdist, "-n", "2", "--dist", "loadfile", "-v", "--tape-model", "models/tiny"
    )
    workers = {
        tape: {line[:5] for line in done.stdout.splitlines() if f"PASSED recordings/{tape}" in line}
        for tape in ("probe.tape", "second.tape")
    }
    grouped = run_pytest(project, *xdist, "-m", "xdist_group", "--collect-only", "-q")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed" in done.stdout
    assert all(len(each) == 1 for each in workers.values()), workers
    assert "6/8 tests collected" in grouped.stdout


def test_the_update_replaces_what_no_longer_passes_and_leaves_the_rest(project: Path) -> None:
    recordings, tiny = project / "recordings", project / "models" / "tiny"
    change_weight(tiny)
    pack_talk(tiny, "models/tiny", recordings / "good.tape")
    (recordings / "broken.tape").write_bytes(b"PK\x03\x04 not a tape")
    before = {path.name: path.read_bytes() for path in recordings.iterdir()}
    refused = run_pytest(project, "--tapes", "recordings", "--tape-update", CI="true")
    done = run_pytest(project, "--tapes", "recordings", "--tape-update", "--junitxml=out.xml")
    after = {path.name: path.read_bytes() for path in recordings.iterdir()}
    with tt.open_store(recordings / "probe.tape") as store:
        (summary,) = store.summaries()
        again = tt.verify(store.recording(summary.run_id), tt.load_model(tiny))
    found = results(project / "out.xml")

    assert refused.returncode == 4
    assert "CI is set" in refused.stderr
    assert done.returncode == 1
    assert "1 failed, 8 passed" in done.stdout, done.stdout
    assert "tape updated: recordings/probe.tape was recorded again, and passes" in done.stdout
    assert "before: incomparable: not what was recorded: weights" in done.stdout
    updated = [name for name, (_, properties) in found.items() if "updated" in properties]
    assert updated == [f"recordings.probe.tape::turn {turn}" for turn in (1, 2, 3)]
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"probe.tape"}
    assert again.verdict is tt.Verdict.VERIFIED


# Imported by the child at its start: an out-of-memory killer, and a library that prints.
KILLER = """
import os, signal, sys

def kill(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".tape") and os.path.exists("kill"):
        os.unlink("kill")
        os.write(2, b"about to need too much memory\\n")
        os.kill(os.getpid(), signal.SIGKILL)

if "serve-replays" in sys.orig_argv:
    print("a library says hello", flush=True)
    sys.addaudithook(kill)
"""

KILL_AFTER_COLLECTION = """
import pathlib

def pytest_collection_finish():
    pathlib.Path("kill").touch()
"""


def test_tapes_are_retraced(project: Path) -> None:
    options = ("--tapes", "recordings", "--tape-mode=retrace", "--junitxml=out.xml")
    done = run_pytest(project, *options)
    found = results(project / "out.xml")

    assert done.returncode == 0, done.stdout
    for turn in (1, 2, 3):
        _, properties = found[f"recordings.probe.tape::turn {turn}"]
        assert properties["verdict"] == "exact"
        assert float(properties["logprob_difference_max"]) == 0.0


def test_rebuilding_needs_no_model_and_a_child_that_dies_fails_only_the_turn_at_hand(
    project: Path,
) -> None:
    shutil.rmtree(project / "models")
    hooks = project / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(KILLER)
    (project / "conftest.py").write_text(KILL_AFTER_COLLECTION)
    path = os.pathsep.join([str(hooks), str(project)])
    options = ("--tapes", "recordings", "--tape-mode=rebuild", "--junitxml=out.xml")
    done = run_pytest(project, *options, PYTHONPATH=path)
    found = results(project / "out.xml")
    killed, _ = found["recordings.probe.tape::turn 1"]

    assert done.returncode == 1
    assert "1 failed, 4 passed" in done.stdout, done.stdout
    assert "was killed by SIGKILL (out of memory?)" in killed
    assert killed.endswith("about to need too much memory")
    for turn in (2, 3):
        assert found[f"recordings.probe.tape::turn {turn}"] == ("", {"verdict": "rebuilt"})


def test_what_cannot_be_read_fails_in_one_line_each(project: Path) -> None:
    recordings = project / "recordings"
    whole = (recordings / "probe.tape").read_bytes()
    (recordings / "probe.tape").write_bytes(whole[: len(whole) // 2])
    (recordings / "empty.tape").touch()
    with zipfile.ZipFile(recordings / "newer.tape", "w") as newer:
        newer.writestr("manifest.json", json.dumps({"format": 99}))
    done = run_pytest(project, "--tapes", "recordings", "--junitxml=out.xml")
    found = results(project / "out.xml")
    failed = {name: text for name, (text, _) in found.items() if text}

    assert done.returncode == 1
    assert "3 failed, 2 passed" in done.stdout, done.stdout
    assert "format 99: upgrade tokentape" in failed["recordings.newer.tape::unreadable"]
    assert "is not a complete tape" in failed["recordings.probe.tape::unreadable"]
    assert "is not a complete tape" in failed["recordings.empty.tape::unreadable"]
    assert all("\n" not in text for text in failed.values())
    assert "Traceback" not in done.stdout


def test_without_the_option_nothing_is_collected_loaded_or_printed(project: Path) -> None:
    (project / "conftest.py").write_text(
        "import sys\n"
        "def pytest_sessionfinish():\n"
        "    assert 'tokentape.plugin.collecting' not in sys.modules\n"
        "    assert 'tokentape.plugin' in sys.modules\n"
    )
    plain = run_pytest(project, "-W", "error")
    alone = run_pytest(project, "--tape-update")

    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert "2 passed" in plain.stdout
    assert ".tape" not in plain.stdout
    assert "tapes" not in plain.stdout
    assert alone.returncode == 4
    assert "name the recordings with --tapes" in alone.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--tapes", "nowhere"), "there is no "),
        (("--tapes", "tests"), "has no *.tape file"),
        (("--tapes", "tests/test_own.py"), "neither a folder nor a *.tape file"),
        (("--tapes", ""), "the path is empty"),
        (("--tapes", "recordings", "--tape-floor", "no.json"), "there is no file "),
        (("--tapes", "recordings", "--tape-mode=rebuild", "--tape-update"), "needs the model"),
        (("--tapes", "recordings", "--tape-mode=rebuild", "--tape-ignore=weights"), "no effect"),
        (("--tapes", "recordings", "--tape-html", "tests/test_own.py"), "is not a folder"),
        (("--tapes", "recordings", "recordings/probe.tape::turn 9"), "not found"),
        (("--tapes", "recordings", "-o", "tape_mode=guess"), "not 'guess'"),
        (("--tapes", "recordings", "--tape-ignore=wieghts"), "weights, adapters"),
    ],
)
def test_a_request_that_would_replay_nothing_is_an_error(
    project: Path, arguments: tuple[str, ...], why: str
) -> None:
    done = run_pytest(project, *arguments)

    assert done.returncode == 4
    assert why in done.stderr


def test_items_are_selected_like_other_tests(project: Path) -> None:
    recordings = project / "recordings"
    # A folder that pytest skips when it collects tests.
    (recordings / "build").mkdir()
    shutil.copy(recordings / "probe.tape", recordings / "build" / "deep.tape")
    (recordings / "a.tape").touch()
    (project / "pytest.ini").write_text("[pytest]\ntestpaths = tests\ntapes = recordings\n")
    every = run_pytest(project, "--collect-only", "-q").stdout.splitlines()
    keyword = run_pytest(project, "--collect-only", "-q", "-k", "probe and turn_2").stdout
    named = run_pytest(project, "-q", "--collect-only", "recordings/probe.tape::turn 3").stdout
    own = run_pytest(project, "-q", "--collect-only", "tests/test_own.py").stdout
    first = run_pytest(project, "-x", "--tapes", "recordings", "recordings")
    last_failed = run_pytest(project, "--lf", "--collect-only", "-q").stdout

    assert every[:9] == [
        "tests/test_own.py::test_packages_of_ones_own",
        "tests/test_own.py::test_nothing_heavy_is_loaded",
        "recordings/a.tape::unreadable",
        "recordings/build/deep.tape::turn 1",
        "recordings/build/deep.tape::turn 2",
        "recordings/build/deep.tape::turn 3",
        "recordings/probe.tape::turn 1",
        "recordings/probe.tape::turn 2",
        "recordings/probe.tape::turn 3",
    ]
    assert keyword.splitlines()[0] == "recordings/probe.tape::turn 2"
    assert "1/9 tests collected" in keyword
    assert named.splitlines()[0] == "recordings/probe.tape::turn 3"
    assert "1 test collected" in named
    assert "tape" not in own
    assert "stopping after 1 failures" in first.stdout
    assert last_failed.splitlines()[0] == "recordings/a.tape::unreadable"
    assert "1/" in last_failed or "1 test collected" in last_failed


def test_the_child_of_one_of_several_workers_uses_its_share_of_the_cores() -> None:
    shared = child_environment({"PYTEST_XDIST_WORKER_COUNT": "1000"})
    chosen = child_environment({"PYTEST_XDIST_WORKER_COUNT": "2", "OMP_NUM_THREADS": "5"})

    assert shared["OMP_NUM_THREADS"] == "1"
    assert chosen["OMP_NUM_THREADS"] == "5"


def test_listing_turns_loads_no_torch(consumer: Path) -> None:
    program = (
        "import sys\n"
        "from tokentape.replay.tapes.tape_replayer import list_runs\n"
        "print(list_runs('recordings/probe.tape'))\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=consumer, capture_output=True, text=True
    )

    assert done.stdout == "[TapeRun(name='probe', turns=(1, 2, 3))]\n", done.stderr


def test_a_fork_and_its_parents_are_replayed_as_runs_of_one_tape(
    project: Path, tiny_folder: Path
) -> None:
    loaded = tt.load_model(tiny_folder)
    tape = project / "recordings" / "probe.tape"
    tape.unlink()
    with tt.open_store("sqlite://") as store:
        assert isinstance(store, DatabaseStore)
        lm = tt.LoadedModel(loaded.model, loaded.tokenizer, "models/tiny")
        tt.pack([store.recording(record_family(lm, store)[-1])], store, tape)
    ran = run_pytest(project, "--tapes", "recordings", "-v")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    for run in ("parent", "fork", "fork (2)"):
        for turn in (1, 2, 3):
            assert f"probe.tape::{run}::turn {turn} PASSED" in ran.stdout
