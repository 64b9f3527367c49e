"""A command that is refused for one of its arguments leaves no run."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

import tokentape as tt

Cli = Callable[..., tuple[int, str, str]]

PLAN = """
name: short
system_prompt: Hi.
tasks:
  - message: One?
"""
RUN = ("run", "PLAN", "--model", "MODEL")
CHAT = ("chat", "--model", "MODEL", "--system", "Hi.")
FORK = ("fork", "PARENT", "--at-turn", "2")
BAD = [
    (*RUN, "--max-new-tokens", "100000"),
    (*RUN, "--seed", "x"),
    (*RUN, "--turns", "0"),
    ("run", "nope", "--model", "MODEL"),
    ("run", "PLAN", "--model", "./nope"),
    (*CHAT, "--temperature", "nan"),
    (*CHAT, "--temperature", "-1"),
    (*CHAT, "--max-new-tokens", "100000"),
    ("chat", "--model", "MODEL", "--system", "x" * 9000),
    ("chat", "--model", "./nope"),
    (*FORK, "--set", "temperature=hot", "--set", "do_sample=true"),
    (*FORK, "--set", "no_such_setting=1"),
    (*FORK, "--set", "max_new_tokens=100000"),
    (*FORK, "--set", "temperature"),
    (*FORK, "--message", " "),
    (*FORK, "--message", "x" * 9000),
    (*FORK, "--model", "./nope"),
    ("fork", "PARENT", "--at-turn", "9"),
    ("fork", "PARENT", "--at-turn", "9", "--message", "One?"),
    ("fork", "nope", "--at-turn", "1"),
    ("resume", "nope"),
    ("resume", "PARENT", "--model", "./nope"),
]


@pytest.fixture(scope="module")
def parent(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with a run of two turns of the saved model, and the run's id."""
    database = tmp_path_factory.mktemp("parent") / "runs.db"
    lm = tt.load_model(tiny_folder)
    with (
        tt.open_store(database) as store,
        tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run,
    ):
        run.chat("One?", max_new_tokens=2)
        run.chat("Two?", max_new_tokens=2)
    return database, run.run_id


@pytest.mark.parametrize("arguments", BAD, ids=lambda each: " ".join(each)[:60])
def test_a_refused_command_leaves_no_run(
    arguments: tuple[str, ...],
    parent: tuple[Path, str],
    tiny_folder: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    database, run_id = parent
    (tmp_path / "plan.yaml").write_text(PLAN)
    words = {"PLAN": str(tmp_path / "plan.yaml"), "MODEL": str(tiny_folder), "PARENT": run_id}
    given = [words.get(each, each) for each in arguments]
    code, out, err = cli(*given, "--store", str(database))

    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    assert "unexpected" not in err
    with tt.open_store(database) as store:
        assert [each.run_id for each in store.summaries()] == [run_id]
        assert store.summaries()[0].status == "finished"


@pytest.mark.parametrize(
    "command",
    [
        ("verify",),
        ("retrace",),
        ("regenerate",),
        ("resume", "RUN"),
        ("fork", "RUN", "--at-turn", "2"),
    ],
)
def test_a_recorded_model_that_is_elsewhere_is_named_with_an_option(
    command: tuple[str, ...],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Cli,
) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    here.mkdir()
    there.mkdir()
    (there / "tiny").symlink_to(tiny_folder)
    monkeypatch.chdir(there)
    database = tmp_path / "runs.db"
    with (
        tt.open_store(database) as store,
        tt.Investigation(
            tt.load_model("./tiny"), store=store, name="x", system_prompt="Hi."
        ) as run,
    ):
        run.chat("One?", max_new_tokens=2)
        run.chat("Two?", max_new_tokens=2)
    monkeypatch.chdir(here)
    # Another machine, which has not seen these weights.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = [run.run_id if each == "RUN" else each for each in command]

    code, _, message = cli(*arguments, "--store", str(database))

    assert code == 2
    assert "there is no model folder ./tiny; if it is elsewhere, name it with --model" in message


@pytest.mark.parametrize("command", [("export", "--to"), ("show", "--turn", "1", "--sort")])
def test_an_unknown_choice_is_refused_in_plain_words(command: tuple[str, ...], cli: Cli) -> None:
    code, out, err = cli(*command, "xlsx", "x")

    assert (code, out) == (2, "")
    assert f"'{command[-1]}': 'xlsx' is not one of '" in err
