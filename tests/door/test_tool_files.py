"""`--tools my_tools.py`, and `tools_file` of a plan: tools of one's own in every command."""

import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import tokentape as tt
from tests.made_plans import short_plan
from tokentape.commands.investigations import resume_hint
from tokentape.commands.tool_files import options_to_resume

Cli = Callable[..., tuple[int, str, str]]
TOOLS = '''
import tokentape as tt

print("to be seen by a person")


@tt.tool
def look(at: str = "here") -> str:
    """Look.

    Args:
        at: Where.
    """
    print("while it runs")
    return at


@tt.tool
def fail() -> None:
    """Fail."""
    raise RuntimeError("nothing there")


def make_tools(lm):
    def layers() -> int:
        """The number of your layers."""
        return lm.model.config.num_hidden_layers

    return [layers]
'''
CALLS = [{"name": name, "arguments": {}} for name in ("look", "fail", "layers")]


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    fields = short_plan(
        tools=["look", "fail", "layers"],
        tools_file="my_tools.py",
        limits={"max_new_tokens": 2, "turns_max": 2},
        tasks=[{"title": "Look", "turns": [{"message": "Look.", "tool_calls": CALLS}, "And?"]}],
    )
    (tmp_path / "my_tools.py").write_text(TOOLS)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def only_run(tmp_path: Path) -> tt.Recording:
    with tt.open_store(tmp_path / "runs.db") as store:
        (summary,) = store.summaries()
        return store.recording(summary.run_id)


def test_a_plan_with_its_own_tools_runs_forks_resumes_and_replays(
    cli: Cli, tmp_path: Path, tiny_folder: Path, plan: Path
) -> None:
    where = ("--store", str(tmp_path / "runs.db"))
    tools = ("--tools", str(tmp_path / "my_tools.py"))
    code, out, err = cli("run", str(plan), *where, "--model", str(tiny_folder), "--json")
    run_id = json.loads(out)["run_id"]

    assert code == 0
    assert [each["tool_errors"] for each in json.loads(out)["turns"]] == [1, 0]
    assert f"running the code of {tmp_path / 'my_tools.py'}, which {plan} names\n" in err
    assert ("to be seen by a person\n" in err, "while it runs\n" in err) == (True, True)
    assert re.search(
        r"warning: tool fail failed in turn 1 \(call_2\): RuntimeError\('n.* line", err
    )
    listed, shown = cli("list", *where)[1], cli("show", *where, "--turn", "1")[1]
    assert listed.splitlines()[0].split()[-2:] == ["tool", "errors"]
    assert listed.splitlines()[1].split()[-1] == "1"
    assert "finished, 1 tool error\n" in shown
    assert "RuntimeError: nothing there\n" in shown
    assert json.loads(cli("list", *where, "--json")[1])[0]["tool_errors"] == 1
    sources = only_run(tmp_path).started().tool_sources
    assert {each["file"] for each in sources.values()} == {"my_tools.py"}

    code, out, err = cli("verify", run_id, *where, *tools, "--no-keep", "--json")
    assert (code, json.loads(out)["tools"]) == (0, [])
    code, _, err = cli("verify", run_id, *where, "--tools", "rerun", "--no-keep")
    assert code == 1
    assert "missing here: the tools look, fail, layers; name the file" in err
    for command in (("resume", run_id), ("fork", run_id, "--at-turn", "2")):
        code, _, err = cli(*command, *where)
        assert code == 2
        assert "missing here are fail, layers, look, of my_tools.py; give them with" in err
    assert cli("resume", run_id, *where, *tools)[0] == 0
    (tmp_path / "my_tools.py").write_text(TOOLS.replace("nothing there", "nothing here"))
    code, _, err = cli("fork", run_id, "--at-turn", "1", *where, *tools)
    assert code == 0
    assert "warning: the source of the tool fail is not the recorded one" in err
    assert f"--tools {tmp_path / 'my_tools.py'}\n" in err.partition("run the rest of its plan")[2]


def test_a_file_adds_its_tools_to_those_of_a_plan_and_of_a_chat(
    cli: Cli, tmp_path: Path, tiny_folder: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.write_text(yaml.safe_dump(short_plan(limits={"max_new_tokens": 2, "turns_max": 1})))
    monkeypatch.chdir(tmp_path)
    options = ("--tools", "my_tools.py", "--model", str(tiny_folder))
    assert cli("run", "mine.yaml", "--store", "a.db", *options)[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("/tool fail {} Go.\n/tools\n"))
    chat = ("chat", "--system", "Hi.", "--max-new-tokens", "2", "--store", "b.db")
    code, _, err = cli(*chat, *options)

    assert code == 0
    assert "\ntokentape: warning: tool fail failed in turn 1" in err
    assert "layers: The number of your layers." in err
    for name in ("a.db", "b.db"):
        with tt.open_store(name) as store:
            started = store.recording(store.summaries()[0].run_id).started()
        assert started.tools[-3:] == ("look", "fail", "layers")
        assert "get_weight_statistics" in started.tools
    assert started.settings["plan"] is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--tools", "none.py"), "tokentape: cannot read the tools in none.py: No such file"),
        (("--tools", "."), "tokentape: . is a folder"),
        (("--tools", "bad.py"), "tokentape: bad.py, line 1: "),
        (("--tools", "wrong.py"), "tokentape: wrong.py, line 2: ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("command", [("run", "demo"), ("chat",), ("verify",)])
def test_a_file_that_cannot_be_used_is_refused_before_a_model_is_loaded(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...],
    options: tuple[str, ...], complaint: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("bad.py").write_text("def f(:\n")
    Path("wrong.py").write_text("x = 0\n1 / x\n")
    tape = Path(__file__).parents[1] / "recordings" / "0.2.0.tape"
    store = ("conversation", "--store", str(tape)) if command == ("verify",) else ()
    code, out, err = cli(*command, *store, *options, *(() if store else ("--model", "no/model")))

    assert (code, out) == (2, "")
    assert err.startswith(complaint)
    assert err.count("\n") == 1


def test_other_mistakes_with_tools_are_named(
    cli: Cli, tmp_path: Path, tiny_folder: Path, plan: Path
) -> None:
    tools = tmp_path / "my_tools.py"
    code, _, err = cli("verify", "--tools", "rerum")
    assert (code, "did you mean 'rerun'?" in err) == (2, True)
    tools.write_text(TOOLS.replace("def look", "def list_layers"))
    code, _, err = cli("run", str(plan), "--model", str(tiny_folder), "--store", "sqlite://")
    assert code == 2
    assert f"{tools}: list_layers is the name of a default tool: rename it\n" in err
    tools.write_text(TOOLS.replace("def look", "def see"))
    code, _, err = cli("run", str(plan), "--model", str(tiny_folder), "--store", "sqlite://")
    assert (code, "there is no tool 'look'" in err, "my_tools.py" in err) == (2, True, True)


@pytest.mark.parametrize("name", ["/etc/passwd", "../my_tools.py", "none.py", "~/x.py"])
def test_a_plan_names_a_file_with_tools_in_its_own_folder(plan: Path, name: str) -> None:
    (plan.parent.parent / "my_tools.py").write_text(TOOLS)
    fields = yaml.safe_load(plan.read_text())
    plan.write_text(yaml.safe_dump(fields | {"tools_file": name}))
    from tokentape.generation.plans import load_plan

    with pytest.raises(tt.PromptError, match=r"tools_file (names a file outside|is not a file)"):
        load_plan(plan)
    (plan.parent.parent / "my_tools.py").unlink()


def test_the_memory_of_a_plan_is_reckoned_without_running_its_tools(
    plan: Path, tiny_folder: Path
) -> None:
    (plan.parent / "my_tools.py").write_text("raise ValueError('run')")
    found = tt.plan_memory(str(tiny_folder), protocol=plan)

    assert "the descriptions of the tools in my_tools.py are not counted" in found.notes


def test_the_command_after_an_interruption_has_what_it_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loading: Any = {"dtype": "bfloat16", "trust_remote_code": True, "attn_implementation": "a/b"}
    hints = [
        options_to_resume(loading, Path("-my tools.py")),
        options_to_resume({"dtype": "bfloat16", "quantization": {"a": 1}}, None, "my model"),
        options_to_resume({"dtype": "bfloat16", "attn_implementation": "eager"}, None),
    ]
    for options in hints:
        with pytest.raises(typer.Exit), resume_hint("my runs.db", options) as begun:
            begun("0123")
            raise KeyboardInterrupt
    printed = capsys.readouterr().err.splitlines()
    words = [shlex.split(line.partition("resume with: ")[2]) for line in printed]

    common = ["tokentape", "resume", "0123", "--store", "my runs.db"]
    code = ["--trust-remote-code", "--attn-implementation", "a/b"]
    model = ["--model", "my model", "--dtype", "bfloat16", "--quantization", '{"a": 1}']
    assert words == [[*common, *code, "--tools", "./-my tools.py"], [*common, *model], common]
