"""Tapes of every kind: old versions, forks, resumed, pruned, redacted, damaged, several runs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.replay.playback.conftest import QUESTIONS, SYSTEM, Recorded, ask, depth, failure_of
from tokentape.replay.playback import PlaybackWarning

TAPES = Path(__file__).parents[2] / "recordings"


@pytest.mark.parametrize("name", ["0.1.0.tape", "0.2.0.tape"])
def test_runs_of_every_version_are_played(name: str) -> None:
    with tt.open_store(TAPES / name) as store:
        found = [store.recording(each.run_id) for each in store.summaries()]
        imported = [each.run_id for each in found if each.imported() is not None]
        runs = [
            (each.run_id, each.started(), tt.rebuild(each))
            for each in found
            if each.run_id not in imported
        ]
    for each in imported:
        with pytest.raises(tt.NothingToReplayError, match="has no tokens: it was imported from"):
            tt.playback(TAPES / name, run=each)
    for run_id, started, rebuilt in runs:
        finished = {each.number for each in rebuilt.turns if each.finished is not None}
        asked = [each for each in rebuilt.turns if not each.first_step and each.number in finished]
        system = rebuilt.messages[0].content
        with tt.playback(TAPES / name, run=run_id, mode="warn") as tape:
            run = tape.investigation(
                name=started.name, system_prompt=system, seed=started.seed or 0
            )
            with pytest.warns() as warned:
                replies = [run.chat(message_of(each)) for each in asked]
        texts = "\n".join(str(each.message) for each in warned)

        said = [each.content for each in rebuilt.messages if each.role == "assistant"]

        assert [each.text for each in replies] == said
        assert "the user's message" not in texts
        assert "the system prompt" not in texts


def message_of(turn: Any) -> str:
    added = [each.content for each in turn.messages if each.role == "user"]
    return str(added[0])


def test_a_fork_is_played_in_place_of_its_parent(
    recorded: Recorded, first: dict[str, Any], lm: tt.LoadedModel, tmp_path: Path
) -> None:
    with tt.open_store("sqlite://") as store:
        tt.import_runs(recorded.tape, store)
        with tt.Investigation.fork(
            store, recorded.run_id, lm, at_turn=2, tools=tt.ToolInterface([depth]), name="fork"
        ) as fork:
            told = fork.chat("Another way?", max_new_tokens=3)
        both = [store.recording(each) for each in (recorded.run_id, fork.run_id)]
        family = tt.pack(both, store, tmp_path / "family.tape")
    with tt.playback(family) as tape:
        assert tape.run_ids == (fork.run_id,)
        run = tape.investigation(name="lakes", system_prompt=SYSTEM, tools=[depth], seed=5)
        run.chat(QUESTIONS[0], **first)
        assert run.chat("Another way?", max_new_tokens=3).token_ids == told.token_ids
        tape.check_all_used()
    with tt.playback(family, run="lakes") as tape:
        assert tape.run_ids == (recorded.run_id,)
        assert len(ask(tape.investigation, first=first)) == 3


def test_a_resumed_run_is_played_whole(lm: tt.LoadedModel, tmp_path: Path) -> None:
    def stop(token_id: int, logits: object) -> None:
        raise KeyboardInterrupt

    with tt.open_store("sqlite://") as store:
        run = tt.Investigation(lm, store=store, name="r", system_prompt="Be kind.", seed=2)
        with pytest.raises(KeyboardInterrupt), run:
            one = run.chat("One?", max_new_tokens=3)
            run.chat("Two?", max_new_tokens=3, callback=stop)
        with tt.Investigation.resume(store, run.run_id, lm) as resumed:
            two = resumed.resumed_reply
            three = resumed.chat("Three?", max_new_tokens=3)
        tape = tt.pack([store.recording(run.run_id)], store, tmp_path / "r.tape")
    assert two is not None
    with tt.playback(tape) as played:
        again = played.investigation(name="r", system_prompt="Be kind.", seed=2)
        texts = [again.chat(each, max_new_tokens=3).text for each in ("One?", "Two?", "Three?")]

    assert texts == [one.text, two.text, three.text]


def test_pruned_and_rendered_histories_are_played(
    make_lm: Callable[..., tt.LoadedModel], tmp_path: Path
) -> None:
    lm = make_lm(max_position_embeddings=200)
    pruned: dict[str, Any] = {"at_context_limit": "prune_turns", "history": "template"}

    def talk(make_run: Callable[..., Any], last: str, settings: dict[str, Any]) -> list[str]:
        with make_run(name="p", system_prompt="Be kind.", **settings) as run:
            texts = [run.chat(f"Say {n} times more. " * 3, max_new_tokens=3).text for n in range(4)]
            return [*texts, run.chat(last, max_new_tokens=3).text]

    with tt.open_store("sqlite://") as store:
        told = talk(partial(tt.Investigation, lm, store=store), "Say on.", pruned)
        (run,) = store.summaries()
        tape = tt.pack([store.recording(run.run_id)], store, tmp_path / "p.tape")
    with tt.playback(tape) as played:
        assert talk(played.investigation, "Say on.", pruned) == told
    with tt.playback(tape) as played:
        text = failure_of(lambda: talk(played.investigation, "Sag on.", pruned))
    with tt.playback(tape) as played:
        other = failure_of(lambda: talk(played.investigation, "Say on.", {"history": "template"}))

    assert "turn 5, round 1: the user's message" in text
    assert "recorded 'y'" in text
    assert "the run's at_context_limit: recorded 'prune_turns', now 'refuse'" in other


def test_a_redacted_run_is_compared_as_its_redactor_lets_it(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    def redact(text: str) -> str:
        return text.replace("Ada", "[name]")

    with tt.open_store("sqlite://") as store:
        with tt.Investigation(
            lm, store=store, name="r", system_prompt="Be kind.", redactor=redact
        ) as run:
            run.chat("Who is Ada?", max_new_tokens=3)
        tape = tt.pack([store.recording(run.run_id)], store, tmp_path / "r.tape")
    with tt.playback(tape) as played:
        again = played.investigation(name="r", system_prompt="Be kind.", redactor=redact)
        assert len(again.chat("Who is Ada?", max_new_tokens=3).token_ids) == 3
    with tt.playback(tape) as played:
        again = played.investigation(name="r", system_prompt="Be kind.", redactor=redact)
        assert "Who |is [name]" in failure_of(lambda: again.chat("Who was Ada?", max_new_tokens=3))
    with tt.playback(tape) as played, pytest.raises(tt.ReplayError, match="was redacted"):
        played.investigation(name="r", system_prompt="Be kind.").start()
    with tt.playback(tape, mode="warn") as played:
        again = played.investigation(name="r", system_prompt="Be kind.")
        with pytest.warns(PlaybackWarning, match="redacted"):
            again.start()
        assert again.chat("Who is Ada?", max_new_tokens=3).turn == 1


def test_a_damaged_tape_and_an_unknown_run_are_refused_in_one_line(
    recorded: Recorded, tmp_path: Path
) -> None:
    content = bytearray(recorded.tape.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bad.tape").write_bytes(content)
    (tmp_path / "text.tape").write_text("no tape")
    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: tt.playback(tmp_path / "bad.tape"), "cannot read|is altered|not a"),
        (lambda: tt.playback(tmp_path / "text.tape"), "not a complete tape"),
        (lambda: tt.playback(tmp_path / "none.tape"), "there is no store"),
        (lambda: tt.playback(recorded.tape, run="seas"), "has no run 'seas'"),
        (lambda: tt.playback(recorded.tape, mode="strct"), "did you mean 'strict'"),
        (lambda: tt.playback(recorded.tape, model="x"), "in the mode 'passthrough' only"),
    ]
    for attempt, why in attempts:
        with pytest.raises(tt.TokentapeError, match=why) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_two_runs_of_one_tape_are_played_by_name(lm: tt.LoadedModel, tmp_path: Path) -> None:
    told = {}
    with tt.open_store("sqlite://") as store:
        for name in ("north", "south"):
            with tt.Investigation(lm, store=store, name=name, system_prompt=f"Go {name}.") as run:
                told[name] = run.chat("Where?", max_new_tokens=3).text
        runs = [store.recording(each.run_id) for each in store.summaries()]
        tape = tt.pack(runs, store, tmp_path / "two.tape")
    with tt.playback(tape) as played:
        for name in ("south", "north"):
            with played.investigation(name=name, system_prompt=f"Go {name}.") as again:
                assert again.chat("Where?", max_new_tokens=3).text == told[name]
        played.check_all_used()


def test_a_database_can_be_played(
    recorded: Recorded, first: dict[str, Any], tmp_path: Path
) -> None:
    with tt.open_store(tmp_path / "runs.db") as store:
        tt.import_runs(recorded.tape, store)
    with tt.playback(tmp_path / "runs.db") as tape:
        assert len(ask(tape.investigation, first=first)) == 3
