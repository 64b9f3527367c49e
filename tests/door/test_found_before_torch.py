"""Mistakes that a command finds before it imports torch, and the near names it gives."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tokentape as tt
from tests.door.test_light_commands import TORCH
from tokentape.generation.models import hub_access
from tokentape.store import DatabaseStore

# Command, what its message says. `transformers` alone, without torch, is imported for settings.
MISTAKES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("run", "phase1f"), "did you mean 'phase1"),
    (("run", "./mine.yml"), "did you mean 'mine.yaml'"),
    (("run", "mine.yaml"), "limits.max_new_token"),
    (("demo", "--plan", "dem"), "did you mean 'demo'"),
    (
        ("run", "demo", "--model", "./tny"),
        "there is no model folder ./tny (did you mean './tiny'?)",
    ),
    (("chat", "--model", "tny"), "no model 'tny' on this machine (did you mean 'tiny'?)"),
    (("chat", "--model", "smollm-demo"), "did you mean 'smollm2-demo'"),
    (("run", "demo", "--model", "./tiny", "--adapter", "./tny"), "did you mean './tiny'"),
    (("run", "demo", "--model", "./tiny", "--dtype", "bflot16"), "did you mean 'bfloat16'"),
    (("run", "demo", "--model", "./tiny", "--quantization", "int3"), "did you mean 'int8'"),
    (("verify", "--model", "./tny", "STORE"), "did you mean './tiny'"),
    (("verify", "--turn", "99", "STORE"), "no turn 99 with tokens: it has turns 1 to"),
    (("retrace", "--turn", "99", "STORE"), "no turn 99 with tokens: it has turns 1 to"),
    (("verify", "--floor", "none.json", "STORE"), "cannot read the floor none.json"),
    (("verify", "--ignore", "wieghts", "STORE"), "did you mean 'weights'"),
    (("verify", "--html", "runs.db", "STORE"), "runs.db is there already"),
    (("fork", "01", "--at-turn", "99", "STORE"), "has no turn 99 to run again"),
    (
        ("fork", "01", "--at-turn", "1", "--set", "temprature=1", "STORE"),
        "did you mean 'temperature'",
    ),
)

PROGRAM = """
import contextlib, io, sys
import tokentape.cli as cli
for command, said in {mistakes!r}:
    given = [each for each in command if each != "STORE"]
    given += ("--store", "runs.db") if "STORE" in command else ()
    sys.argv = ["tokentape", *given]
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = cli._run()
    assert code in (2, 5), (command, code)
    assert said in errors.getvalue(), (command, errors.getvalue())
    heavy = {heavy!r} & sys.modules.keys()
    assert not heavy, (command, heavy)
"""


def test_mistakes_are_found_before_torch_is_imported_and_near_names_are_given(
    tmp_path: Path,
) -> None:
    tape = Path(__file__).resolve().parents[2] / "examples" / "ci" / "recordings" / "greedy.tape"
    with tt.open_store(tmp_path / "runs.db") as store:
        assert isinstance(store, DatabaseStore)
        tt.import_runs(tape, store)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "mine.yaml").write_text("extends: demo\nname: mine\nlimits: {max_new_token: 3}\n")
    program = PROGRAM.format(mistakes=MISTAKES, heavy=TORCH - {"transformers"})
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True
    )

    assert done.returncode == 0, done.stderr.decode()


def test_a_model_of_a_hub_that_refuses_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(tt.ModelError) as found:
        tt.load_model("someone/nothing")

    assert "no model 'someone/nothing' on this machine, and the hub" in str(found.value)
    assert "(http://127.0.0.1:9) cannot be reached (Connection refused)" in str(found.value)
    assert "hf download someone/nothing" in str(found.value)


def test_a_hub_that_does_not_answer_is_waited_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()

    def never(*arguments: object, **named: object) -> None:
        answered.wait(60)
        raise OSError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_access, "CONNECT_S", 0.01)
    monkeypatch.setattr(socket, "create_connection", never)
    with pytest.raises(tt.ModelError, match=r"no answer in 0\.01 s"):
        hub_access.needs_cache("someone/nothing", None, lambda: "missing")
    answered.set()


def test_a_proxy_is_what_must_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")

    assert hub_access._gateway("https://huggingface.co") == ("proxy.example", 3128)
    assert hub_access._gateway("https://inside.example") == ("inside.example", 443)
