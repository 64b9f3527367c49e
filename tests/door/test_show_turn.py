"""`tokentape show --turn` prints the exact prompt, and the position where the cache ended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tokentape.generation.history.spelling import spell_token
from tokentape.recorder.escapes import visible, visible_lines
from tokentape.recorder.selected_turns import read_turns, turn_numbers
from tokentape.replay.reports.turn_page import prompt_sections, render_page
from tokentape.store import DatabaseStore

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def database(tmp_path: Path, tiny_folder: Path, record: Callable[..., tt.Recording]) -> Path:
    path = tmp_path / "runs.db"
    with tt.open_store(path) as store:
        record(tt.load_model(tiny_folder), store)
    return path


def page(recording: tt.Recording, number: int) -> list[str]:
    (selected,) = read_turns(recording, [number])
    sections = prompt_sections(selected.turn, selected.seams())
    return [part for part, _ in render_page(selected.turn, sections)]


def test_the_whole_prompt_is_shown_with_what_was_cached_and_what_was_new(
    cli: Cli, database: Path
) -> None:
    code, out, _ = cli("show", "--store", str(database), "--turn", "2")
    whole = json.loads(cli("show", "--store", str(database), "--turn", "2", "--json")[1])
    (turn,) = whole["turns"]
    new = turn["prompt_text"][turn["sections"]["new_char"] :]
    before, _, rest = out.partition("──── new in this turn: ")

    assert code == 0
    assert "──── from the cache: " in before
    assert "<|im_start|>system\nBe kind and brief.<|im_end|>\n<|im_start|>user\nWhat of" in before
    assert "What of layer 1?" in rest
    assert rest.startswith(
        f"{turn['started']['prompt_tokens'] - turn['sections']['new_token']} tok"
    )
    assert "What of layer 1?" in new
    assert "What of layer 0?" not in new
    assert [each["kind"] for each in turn["tools"]] == ["ToolCalled", "ToolReturned"]
    assert "  tool get_weight_statistics {" in out
    assert "tokens shown, of a full result of " in out


def test_the_lines_divide_the_prompt_at_the_right_ids(
    lm: tt.LoadedModel, store: DatabaseStore, record: Callable[..., tt.Recording]
) -> None:
    recording = record(lm, store)
    for selected in read_turns(recording, turn_numbers(recording)):
        turn = selected.turn
        sections = prompt_sections(turn, selected.seams())
        spelled = str(lm.tokenizer.decode(list(turn.prompt_ids[: sections.new_token])))
        cached = str(lm.tokenizer.decode(list(turn.prompt_ids[: sections.cache_token])))

        assert turn.prompt_text[: sections.new_char] == spelled
        assert turn.prompt_text[: sections.cache_char] == cached
        # The last token of a reply is never cached.
        assert 0 <= sections.cache_token - sections.reused_tokens <= 1


def test_a_turn_without_a_cache_says_so(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Look.") as run:
        run.chat("One?", max_new_tokens=3)
        run.chat("Two?", max_new_tokens=3, use_cache=False)
    shown = page(store.recording(run.run_id), 2)

    assert shown[0].startswith("──── nothing from the cache: ")
    assert not any("cache ended" in part for part in shown)


def test_a_prompt_that_was_rendered_again_is_shown_in_full(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(
        lm, store=store, name="t", system_prompt="Look.", history="template"
    ) as run:
        run.chat("One?", max_new_tokens=3)
        run.chat("Two?", max_new_tokens=3)
    recording = store.recording(run.run_id)
    shown = page(recording, 2)

    *prompt, _ = [part for part in shown if "────" not in part]

    assert "".join(prompt) == visible_lines(recording.turns()[1].prompt_text)


def test_a_turn_is_shown_token_by_token(cli: Cli, database: Path, tiny_folder: Path) -> None:
    code, out, _ = cli("show", "--store", str(database), "--turn", "3", "--tokens")
    whole = json.loads(
        cli("show", "--store", str(database), "--turn", "3", "--tokens", "--json")[1]
    )
    (turn,) = whole["turns"]
    lines = out.splitlines()
    rows = lines[lines.index(next(each for each in lines if each.startswith("position"))) + 1 :]

    assert code == 0
    assert len(rows) == len(turn["prompt_ids"]) + 1 + len(turn["tokens"])
    assert [row.split()[1] for row in rows[: len(turn["prompt_ids"])]] == [
        str(each) for each in turn["prompt_ids"]
    ]
    assert "'B'" in out
    assert "".join(turn["prompt_pieces"]) == turn["prompt_text"]
    token, row = turn["tokens"][0], rows[len(turn["prompt_ids"]) + 1].split()
    assert row[0] == str(token["position"])
    assert f"{token['logprob']:.3f}" in row
    assert f"{token['entropy']:.3f}" in row
    cached = sum("  cache" in each for each in rows[: len(turn["prompt_ids"])])
    assert cached == turn["cache"]["reused_tokens"]


def test_without_the_tokenizer_ids_numbers_and_recorded_texts_are_shown(
    cli: Cli, tmp_path: Path, lm: tt.LoadedModel
) -> None:
    database = tmp_path / "runs.db"
    with (
        tt.open_store(database) as store,
        tt.Investigation(lm, store=store, name="t", system_prompt="Look.") as run,
    ):
        reply = run.chat("What?", max_new_tokens=3)
    asked = ("show", "--store", str(database), "--turn", "1", "--tokens")
    out = cli(*asked)[1]
    (turn,) = json.loads(cli(*asked, "--json")[1])["turns"]

    rows = out.splitlines()[-3:]
    assert f"  {reply.token_ids[0]} " in rows[0]
    for token_id, row in zip(reply.token_ids, rows, strict=True):
        assert visible(spell_token(lm.tokenizer, token_id)) in row
    assert turn["prompt_pieces"] is None


def test_an_interrupted_turn_is_shown(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    def stop(token_id: int, logits: Any) -> None:
        raise RuntimeError

    with tt.Investigation(lm, store=store, name="t", system_prompt="Look.") as run:
        with pytest.raises(RuntimeError):
            run.chat("One?", max_new_tokens=3, callback=stop)
        run.chat("Two?", max_new_tokens=3)
    recording = store.recording(run.run_id)

    assert page(recording, 1)[-2:] == [
        "──── the reply: 1 tokens, cut off ────",
        "(text not recorded yet)",
    ]
    assert any("Two?" in part for part in page(recording, 2))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--turn", "9"), "has no turn 9: it has turns 1 to 4"),
        (("--tokens",), "--tokens needs --turn"),
    ],
)
def test_a_turn_that_does_not_exist_is_bad_input(
    cli: Cli, database: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = cli("show", "--store", str(database), *arguments)

    assert (code, out) == (2, "")
    assert said in err
