"""`tokentape tail` prints a run while another process records it."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import tokentape as tt
from tests.made_plans import short_plan
from tokentape.recorder import Envelope
from tokentape.recorder.escapes import visible_lines
from tokentape.recorder.events import InterventionRemoved, TokenSampled, TurnFinished
from tokentape.recorder.transcript import TranscriptWriter
from tokentape.store.run_follower import NewToken, RunFollower

Cli = Callable[..., tuple[int, str, str]]
PLAN = short_plan(
    name="watched",
    limits={"max_new_tokens": 60},
    sampling={"min_new_tokens": 60, "do_sample": True, "temperature": 1.5},
)


@pytest.fixture
def database(tmp_path: Path, tiny_folder: Path, record: Callable[..., tt.Recording]) -> Path:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        record(tt.load_model(tiny_folder), store)
    return path


def replies_in(database: Path) -> list[str]:
    with tt.open_store(database) as store:
        messages = store.recording(store.summaries()[-1].run_id).messages()
    return [visible_lines(each.content) for each in messages if each.role == "assistant"]


def test_a_run_in_another_process_is_printed_to_its_end(
    cli: Cli, tmp_path: Path, tiny_folder: Path
) -> None:
    database, plan = tmp_path / "runs.db", tmp_path / "watched.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    command = ["run", str(plan), "--model", str(tiny_folder), "--store", str(database)]
    recorder = subprocess.Popen([sys.executable, "-m", "tokentape", *command])
    while cli("list", "--store", str(database), "--json")[1] in ("", "[]\n"):
        assert recorder.poll() is None
        time.sleep(0.05)
    code, out, err = cli("tail", "--store", str(database))
    replies = replies_in(database)

    assert recorder.wait(timeout=60) == 0
    assert (code, err) == (0, "")
    assert out.startswith("run watched, model ")
    assert len(replies) == 3
    assert all(f"assistant: {reply}\n  [60 tokens in " in out for reply in replies)
    assert out.count("cache: hit (extends)") == 3
    assert 'tool get_weight_statistics {"layer_name": "model.layers.1.mlp.down' in out
    assert out.endswith("finished: 3 turns, 180 tokens generated\n")
    # Printed again after its end, it reads the same: nothing was lost or printed twice.
    assert cli("tail", "--store", str(database), "--no-follow")[1] == out


def test_each_token_is_read_as_soon_as_it_is_recorded(lm: tt.LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    seen: list[Envelope | NewToken] = []
    newest: list[int] = []
    with tt.open_store(path) as store, tt.open_store(path) as watched:
        with tt.Investigation(lm, store=store, name="t", system_prompt="Look.") as run:
            following = RunFollower(watched, watched.recording(run.run_id))

            def look(token_id: int, logits: object) -> None:
                seen.extend(following.poll())
                tokens = [each for each in seen if isinstance(each, NewToken)]
                newest.append(tokens[-1].token_id == token_id)

            for message in ("One?", "Two?"):
                run.chat(message, max_new_tokens=9, min_new_tokens=9, callback=look)
        seen.extend(following.poll())
        recorded = list(store.recording(run.run_id).events())

    assert newest == [True] * 18
    assert following.ended
    assert [each.seq for each in seen] == [each.seq for each in recorded]
    assert [each for each in seen if isinstance(each, Envelope)] == [
        each for each in recorded if not isinstance(each.event, TokenSampled)
    ]


def test_a_run_that_is_followed_late_gives_each_token_once(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"
    with (
        tt.open_store(path) as store,
        tt.open_store(path) as watched,
        tt.Investigation(lm, store=store, name="t", system_prompt="Look.") as run,
    ):
        following = RunFollower(watched, watched.recording(run.run_id))
        run.chat("One?", max_new_tokens=5)
        first = following.poll()
        counted: list[int] = []
        run.chat(
            "Two?",
            max_new_tokens=9,
            min_new_tokens=9,
            callback=lambda token_id, logits: counted.append(
                len(following.poll()) if len(counted) in (3, 8) else 0
            ),
        )

    assert not [each for each in first if isinstance(each, NewToken)]
    assert isinstance(first[-1], Envelope)
    assert isinstance(first[-1].event, TurnFinished)
    assert counted[8] == 5


def test_without_follow_the_recorded_events_are_printed_and_the_end_is_not_awaited(
    cli: Cli, tmp_path: Path, tiny_folder: Path
) -> None:
    class Enough(Exception):
        pass

    def stop(token_id: int, logits: object) -> None:
        heard.append(token_id)
        if len(heard) == 6:
            raise Enough

    heard: list[int] = []
    lm, database = tt.load_model(tiny_folder), tmp_path / "runs.db"
    with tt.open_store(database) as store:
        run = tt.Investigation(lm, store=store, name="t", system_prompt="Look.")
        run.__enter__()
        with pytest.raises(Enough):
            run.chat("Go on?", max_new_tokens=20, min_new_tokens=20, callback=stop)
        code, out, err = cli("tail", "--store", str(database), "--no-follow")
        _, message, reply = out.rpartition("assistant: ")
        text = visible_lines(lm.tokenizer.decode(heard))

    assert code == 0
    assert "user: Go on?" in out
    assert message
    # The last bytes may be the beginning of a character.
    assert text.startswith(reply.strip("\n"))
    assert f"run {run.run_id} has not ended" in err


def test_without_the_tokenizer_tokens_are_printed_as_ids(
    cli: Cli, lm: tt.LoadedModel, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def stop(token_id: int, logits: object) -> None:
        heard.append(token_id)
        if len(heard) == 3:
            raise Enough

    heard: list[int] = []
    database = tmp_path / "runs.db"
    with tt.open_store(database) as store:
        run = tt.Investigation(lm, store=store, name="t", system_prompt="Look.")
        run.__enter__()
        reply = run.chat("What?", max_new_tokens=5)
        with pytest.raises(Enough):
            run.chat("Go on?", max_new_tokens=20, min_new_tokens=20, callback=stop)
        out = cli("tail", "--store", str(database), "--no-follow")[1]

    assert f"assistant: {visible_lines(reply.text)}\n" in out
    assert out.endswith(f"assistant:  {' '.join(map(str, heard))}\n")


def test_last_prints_only_the_newest_turns(cli: Cli, database: Path) -> None:
    out = cli("tail", "--store", str(database), "--last", "1")[1]

    assert "── turn 4 ──" in out
    assert "── turn 3 ──" not in out
    assert out.startswith("run test, model ")
    assert "\nfinished: 4 turns, " in out


def test_a_sealed_run_is_printed_too_and_an_unknown_run_is_an_error(
    cli: Cli, database: Path, tmp_path: Path
) -> None:
    cli("export", "--store", str(database), "--output", str(tmp_path / "sealed"))
    live = cli("tail", "--store", str(database))[1]

    assert cli("tail", "--store", str(tmp_path / "sealed"))[1] == live
    assert cli("tail", "nope", "--store", str(database))[0] == 2
    assert cli("tail", "--store", str(tmp_path / "gone.db"))[0] == 2


def test_control_characters_are_escaped_and_lines_and_tabs_stay() -> None:
    assert visible_lines("a\tb\nc") == "a\tb\nc"
    assert visible_lines("\x1b[31mred\r\u202e") == "\\x1b[31mred\\r\\u202e"


def test_a_fork_is_printed_from_the_first_turn_of_its_parent(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store, tt.open_store(path) as watched:
        with tt.Investigation(lm, store=store, name="t", system_prompt="Look.") as run:
            run.chat("One?", max_new_tokens=5)
            run.chat("Two?", max_new_tokens=5)
        told: list[str] = []
        narrator = TranscriptWriter(told.append)
        with tt.Investigation.fork(store, run.run_id, lm, at_turn=2) as fork:
            # A fork is stored with its first turn.
            first = fork.chat("Three?", max_new_tokens=5)
            following = RunFollower(watched, watched.recording(fork.run_id))
            for each in following.poll():
                assert isinstance(each, Envelope)
                narrator.event(each)
            reply = fork.chat("Four?", max_new_tokens=5)
        news = following.poll()
        for each in news:
            if isinstance(each, Envelope):
                narrator.event(each)
    text = "".join(told)

    assert following.ended
    assert text.index("user: One?") < text.index("user: Three?") < text.index("user: Four?")
    assert "Two?" not in text
    assert f"forked from run {run.run_id} at turn 2" in text
    assert f"assistant: {visible_lines(first.text)}\n" in text
    assert f"assistant: {visible_lines(reply.text)}\n" in text
    assert [each.token_id for each in news if isinstance(each, NewToken)] == list(reply.token_ids)


def test_events_during_a_reply_are_printed_on_lines_of_their_own() -> None:
    told: list[str] = []
    narrator = TranscriptWriter(told.append)
    removed = InterventionRemoved(turn=1, position=9, name="calm")
    finished = TurnFinished(
        turn=1,
        stop_reason="eos",
        generated_tokens=2,
        text="one two",
        stop_text="",
        generator_sha256="",
        duration_us=1_000_000,
    )
    narrator.piece("one")
    narrator.event(Envelope("r", 5, 0, removed, 1))
    narrator.piece(" two")
    narrator.event(Envelope("r", 6, 0, finished, 1))

    assert "".join(told) == (
        "assistant: one\n── turn 1 ──\nintervention calm: removed\nassistant:  two\n"
        "  [2 tokens in 1.0 s, stopped by eos]\n"
    )
