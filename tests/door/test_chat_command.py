"""`tokentape chat` records typed messages, and prints each reply token by token."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tokentape as tt
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]
Talk = Callable[..., tuple[int, str, str]]
LAYER = '{"layer_name": "model.norm.weight"}'


@pytest.fixture(scope="module")
def tiny_folder(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny model whose context has room for the documentation of the tools in bytes."""
    folder = tmp_path_factory.mktemp("models") / "roomy"
    roomy = make_lm("llama", max_position_embeddings=8192)
    roomy.model.save_pretrained(folder)
    roomy.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def talk(cli: Cli, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Talk:
    def say(typed: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        where = ("--store", str(tmp_path / "runs.db"), "--model", str(tiny_folder))
        return cli("chat", *where, "--max-new-tokens", "12", *arguments)

    return say


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[[], DatabaseStore]]:
    opened = []

    def open_runs() -> DatabaseStore:
        store = tt.open_store(tmp_path / "runs.db")
        assert isinstance(store, DatabaseStore)
        opened.append(store)
        return store

    yield open_runs
    for each in opened:
        each.close()


def only_recording(store: DatabaseStore) -> tt.Recording:
    (summary,) = store.summaries()
    return store.recording(summary.run_id)


def shown(text: str) -> str:
    from tokentape.recorder.escapes import visible_lines

    return visible_lines(text)


def test_typed_lines_are_messages_and_replies_come_on_standard_output(
    talk: Talk, runs: Callable[[], DatabaseStore]
) -> None:
    code, out, err = talk("Hello\n\n  And now?  \n", "--name", "mine", "--seed", "5")
    recording = only_recording(runs())
    said = [each.content for each in recording.messages() if each.role == "user"]
    replies = [shown(each.content) for each in recording.messages() if each.role == "assistant"]

    assert code == 0
    assert said == ["Hello", "And now?"]
    assert out == "".join(f"{reply}\n" for reply in replies)
    assert recording.run_id in err
    assert f"tokentape show {recording.run_id} --store" in err
    assert (recording.started().name, recording.started().seed) == ("mine", 5)
    assert "You are a language model" in recording.messages()[0].content


def test_temperature_zero_takes_the_likeliest_and_another_samples(
    talk: Talk, runs: Callable[[], DatabaseStore]
) -> None:
    talk("Hello\n", "--temperature", "0", "--system", "Be kind. {memory}")
    store = runs()
    recording = only_recording(store)
    talk("Hello\n", "--temperature", "1.5")
    (sampled,) = store.recording(store.summaries()[-1].run_id).turns()

    assert recording.turns()[0].started.sampling["do_sample"] is False
    assert recording.messages()[0].content.startswith("Be kind. MEMORY MANAGEMENT")
    assert sampled.started.sampling["temperature"] == 1.5
    assert sampled.started.seed is not None


def test_a_tool_is_run_for_the_model_and_its_result_is_shown(
    talk: Talk, runs: Callable[[], DatabaseStore]
) -> None:
    _, out, err = talk(f"/tool get_weight_statistics {LAYER} What is its mean?\n")
    messages = only_recording(runs()).messages()
    (result,) = [each for each in messages if each.role == "tool"]

    assert [each.role for each in messages] == ["system", "user", "tool", "assistant"]
    assert messages[1].content == "What is its mean?"
    assert json.loads(result.content)["name"] == "model.norm.weight"
    assert result.content in err
    assert "model.norm.weight" not in out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/tool", "there is no tool ''; there are get_weight_statistics"),
        ("/tool nope {}", "there is no tool 'nope'; there are get_weight_statistics"),
        ("/tool get_weight_statistics {x", "the arguments of get_weight_statistics are not JSON"),
        ("/tool get_weight_statistics [1]", "are an object"),
        ("/nope", "there is no command /nope: /help lists them"),
        ("/help", "/tool NAME {JSON} [TEXT]   run a tool, and send TEXT"),
        ("/tools", "get_weight_statistics: Statistics of the weights"),
        ("\x1b[31m/x", None),
    ],
)
def test_bad_input_is_reported_and_the_conversation_continues(
    talk: Talk, runs: Callable[[], DatabaseStore], typed: str, said: str | None
) -> None:
    code, _, err = talk(f"{typed}\n//end\n")
    messages = [each.content for each in only_recording(runs()).messages() if each.role == "user"]

    assert code == 0
    assert messages[-1] == "/end"
    if said is not None:
        assert said in err
        assert messages == ["/end"]


def test_quit_ends_the_conversation_and_later_lines_are_ignored(
    talk: Talk, runs: Callable[[], DatabaseStore]
) -> None:
    code, out, _ = talk("/quit\nHello\n")
    store = runs()

    assert (code, out) == (0, "")
    assert store.summaries()[0].status == "finished"
    assert store.summaries()[0].turns == 0


def test_a_message_that_does_not_fit_is_refused_and_the_next_is_sent(
    talk: Talk, runs: Callable[[], DatabaseStore]
) -> None:
    code, _, err = talk(f"{'x' * 9000}\nHello\n", "--system", "Be kind.")

    assert code == 0
    assert "too long for the model's context" in err
    assert only_recording(runs()).turns()[-1].messages[0].content == "Hello"


def test_every_byte_can_be_typed(
    talk: Talk, runs: Callable[[], DatabaseStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = io.TextIOWrapper(io.BytesIO("Größe 漢字 ".encode() + b"\xff\xfe\n"), encoding="utf-8")
    monkeypatch.setattr("io.StringIO", lambda text: typed)
    code, _, _ = talk("")
    messages = only_recording(runs()).messages()

    assert code == 0
    assert messages[1].content == "Größe 漢字 \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"


def test_a_termination_ends_the_conversation_and_says_how_to_resume(
    tmp_path: Path, tiny_folder: Path
) -> None:
    where = ("--store", str(tmp_path / "runs.db"), "--model", str(tiny_folder), "--system", "Hi.")
    with subprocess.Popen(
        [sys.executable, "-m", "tokentape", "chat", *where],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        while b"recording run" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    with tt.open_store(tmp_path / "runs.db") as store:
        (summary,) = store.summaries()

    assert process.returncode == 143
    assert (
        f"interrupted by SIGTERM; resume with: tokentape resume {summary.run_id}".encode() in said
    )
    assert summary.status == "interrupted"


def test_an_interrupt_stops_the_reply_and_one_at_the_prompt_the_conversation(
    tmp_path: Path, tiny_folder: Path
) -> None:
    where = ("--store", str(tmp_path / "runs.db"), "--model", str(tiny_folder))
    much = ("--max-new-tokens", "1800", "--system", "Be kind.")
    process = subprocess.Popen(
        [sys.executable, "-m", "tokentape", "chat", *where, *much],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b"Tell me much.\n")
    process.stdin.flush()
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    heard = b""
    while b"[stopped" not in heard and process.poll() is None:
        heard = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    with tt.open_store(tmp_path / "runs.db") as store:
        (summary,) = store.summaries()
        (turn,) = store.recording(summary.run_id).turns()

    assert heard.startswith(b"[stopped: this exchange is recorded, and the model will not remember")
    assert process.returncode == 0
    assert b"Traceback" not in err
    assert summary.status == "finished"
    assert turn.finished is None
    assert 0 < len(turn.tokens) < 1800


def test_a_warning_of_a_run_is_one_line_on_standard_error(talk: Talk) -> None:
    code, _, err = talk("hello\n", "--system", "Be kind.")
    said = [line for line in err.splitlines() if line.startswith("tokentape: warning: ")]

    assert code == 0
    assert len(said) == 1
    assert "the chat template writes no tool calls: " in said[0]
