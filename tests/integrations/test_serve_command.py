"""The command `serve`: a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt

openai: Any = pytest.importorskip("openai", reason="the extra `dev` has it")

from tests.integrations.endpoints import running_endpoint  # noqa: E402
from tokentape.endpoint.access import KEY_VARIABLE, EndpointKey, read_key  # noqa: E402

Cli = Callable[..., tuple[int, str, str]]
KEY = "a-key-of-sixteen-characters"


@contextmanager
def serving(
    folder: Path, *options: str, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[str], list[str]]]:
    """Yield the address that a server in this folder tells, its process, and its lines so far."""
    command = [sys.executable, "-m", "tokentape", "serve", "--port", "0", "--store", "runs.db"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = subprocess.Popen(
        [*command, *options], cwd=folder, stderr=subprocess.PIPE, text=True, env=variables
    )
    assert process.stderr is not None
    lines: list[str] = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"at (http://\S+),", line):
                yield found[1], process, lines
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        process.kill()
        process.communicate()


def client_of(url: str, key: str = "none") -> Any:
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0)


ASKED: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hello"}],
    "logit_bias": {"2": -100},
    "seed": 1,
}


def test_a_signal_ends_the_replies_after_a_token_and_says_how_to_resume_them(
    tmp_path: Path, tiny_folder: Path, cli: Cli
) -> None:
    with serving(tmp_path, "--model", str(tiny_folder)) as (url, process, _):
        with client_of(url) as client:
            stream = client.chat.completions.create(**ASKED, max_tokens=900, stream=True)
            run_id = next(stream).id.split("-", 1)[1][:36]
            process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError, match="the server ends"):
                list(stream)
        _, said = process.communicate(timeout=60)

    assert process.returncode == 143
    assert f"resume with: tokentape resume {run_id}" in said
    url = f"sqlite:///{tmp_path}/runs.db"
    with tt.open_store(url) as store:
        assert [each.status for each in store.summaries()] == ["interrupted"]
        assert 0 < len(store.recording(run_id).turns()[0].tokens) < 900
        assert cli("resume", run_id, "--store", url, "--model", str(tiny_folder))[0] == 0
        (turn,) = store.recording(run_id).turns()
        assert len(turn.tokens) == 900


def test_a_killed_server_loses_no_token_and_another_one_answers_again(
    tmp_path: Path, tiny_folder: Path
) -> None:
    seen = ""
    with serving(tmp_path, "--model", str(tiny_folder)) as (url, process, _):
        with client_of(url) as client:
            for chunk in client.chat.completions.create(**ASKED, max_tokens=1500, stream=True):
                seen += chunk.choices[0].delta.content or ""
                if len(seen) > 40:
                    process.send_signal(signal.SIGKILL)
                    break
        run_id = chunk.id.split("-", 1)[1][:36]
        process.wait(60)
    lm = tt.load_model(tiny_folder)
    with tt.open_store(f"sqlite:///{tmp_path}/runs.db") as store:
        recording = store.recording(run_id)
        recorded = lm.tokenizer.decode([each.token_id for each in recording.turns()[0].tokens])
        with running_endpoint(lm, store) as endpoint:
            again = endpoint.client.chat.completions.create(**ASKED, max_tokens=60)

        assert recorded.startswith(seen)
        assert again.choices[0].message.content.startswith(seen[:40])


def test_an_address_that_others_reach_needs_a_key_which_is_made_and_shown_once(
    tmp_path: Path, tiny_folder: Path
) -> None:
    options = ("--model", str(tiny_folder), "--host", "0.0.0.0")
    with serving(tmp_path, *options) as (url, process, _):
        assert process.stderr is not None
        key = process.stderr.readline().split()[-1]
        local = f"http://127.0.0.1:{url.rsplit(':', 1)[1]}"
        with client_of(local, key) as client:
            assert [each.id for each in client.models.list()] == ["tiny"]
        with client_of(local, "other") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        command = Path(f"/proc/{process.pid}/cmdline")
        assert not command.exists() or key not in command.read_text()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)

    assert len(key) > 40
    assert (process.returncode, said) == (130, "tokentape: interrupted\n")


def test_a_key_is_that_of_a_file_else_of_a_variable_else_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    made = [read_key(None, on_loopback=False) for _ in range(2)]
    assert read_key(None, on_loopback=True) is None
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    of_variable = read_key(None, on_loopback=True)
    file = tmp_path / "key"
    file.write_text("another-key-of-a-file\n")
    of_file = read_key(file, on_loopback=False)

    assert len({each.key for each in made if each is not None and each.is_new}) == 2
    assert of_variable == EndpointKey(key=KEY)
    assert of_file == EndpointKey(key="another-key-of-a-file")
    assert KEY not in repr(of_variable)
    file.write_text("two words")
    with pytest.raises(tt.TokentapeError, match="one word of printable ASCII"):
        read_key(file, on_loopback=True)


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no size": (("--max-body", "lots"), "give a number of bytes, such as 10MB"),
    "no key file": (("--api-key-file", "missing"), "cannot read the key of missing: No such file"),
    "short key": (
        ("--host", "0.0.0.0", "--api-key-file", "short"),
        "the key of short has 5 characters",
    ),
    "no host": (("--host", "no.such.host.invalid"), "cannot listen on no.such.host.invalid"),
    "sealed": (("--store", "x.tape"), "no store at x.tape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_found_before_the_model_is_loaded(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("short")
    options, text = REFUSED[case]
    code, out, err = cli("serve", "--model", "./missing", "--port", "0", *options)

    assert (code, out) == (2, "")
    assert text in err


def test_a_port_that_is_taken_is_told(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = cli("serve", "--port", port)

    assert code == 2
    assert err.startswith(f"tokentape: cannot listen on 127.0.0.1 port {port}: ")


def test_without_the_extra_one_line_names_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, err = cli("serve")

    assert (code, err) == (
        2,
        'tokentape: serve needs uvicorn, which is not installed: pip install "tokentape[serve]"\n',
    )
