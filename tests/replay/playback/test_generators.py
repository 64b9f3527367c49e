"""An application that uses a `ManualGenerator`, given a tape."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt

IDS = [40, 41, 42, 43]


def prompts(
    generator: Any, *, word: str = "Hello", ids: list[int] = IDS
) -> list[Mapping[str, Any]]:
    generator.cache_system_prompt("Be kind.")
    first = generator.generate(word, max_new_tokens=3, do_sample=True, seed=4)
    generator.clear_cache()
    return [first, generator.generate(ids, max_new_tokens=3, top_k=4, do_sample=True, seed=5)]


@pytest.fixture
def tape_of(lm: tt.LoadedModel, tmp_path: Path) -> tuple[Path, list[Mapping[str, Any]]]:
    with tt.open_store("sqlite://") as store:
        with tt.Recorder(store) as recorder:
            told = prompts(tt.ManualGenerator(lm.model, lm.tokenizer, recorder))
        recording = store.recording(recorder.run_id)
        return tt.pack([recording], store, tmp_path / "prompts.tape"), told


def test_prompts_get_the_recorded_results(
    tape_of: tuple[Path, list[Mapping[str, Any]]],
) -> None:
    path, told = tape_of
    with tt.playback(path) as tape:
        played = prompts(tape.generator("model", "tokenizer", top_logprobs=2))
        tape.check_all_used()

    for old, new in zip(told, played, strict=True):
        tokens = new["tokens"]
        assert {**new, "tokens": None} == {**old, "tokens": None}
        assert [each.token_id for each in tokens] == old["generated_tokens"]


@pytest.mark.parametrize(
    ("changed", "says_so"),
    [
        ({"word": "Hallo"}, "turn 1, round 1: the prompt is not the recorded one"),
        ({"word": "Hallo"}, "recorded 'e'"),
        ({"ids": [40, 41, 99, 43]}, "token 2 of the prompt, recorded"),
        ({"ids": [40, 41, 99, 43]}, "now id 99"),
        ({"ids": [40, 41, 42, 43, 44]}, "recorded 4 tokens, now 5 tokens"),
    ],
)
def test_another_prompt_fails_and_names_the_token(
    tape_of: tuple[Path, list[Mapping[str, Any]]], changed: dict[str, Any], says_so: str
) -> None:
    with tt.playback(tape_of[0]) as tape, pytest.raises(tt.PlaybackMismatchError) as caught:
        prompts(tape.generator(), **changed)

    assert says_so in str(caught.value)


def test_another_system_prompt_fails(tape_of: tuple[Path, list[Mapping[str, Any]]]) -> None:
    with tt.playback(tape_of[0]) as tape:
        generator = tape.generator()
        generator.cache_system_prompt("Be kinder.")
        with pytest.raises(tt.PlaybackMismatchError, match=r"system prompt[^|]*Be kind\|\."):
            generator.generate("Hello", max_new_tokens=3, do_sample=True, seed=4)


def test_without_a_system_prompt_only_prompts_are_compared(
    tape_of: tuple[Path, list[Mapping[str, Any]]],
) -> None:
    path, told = tape_of
    with tt.playback(path) as tape:
        given = tape.generate("Hello", max_new_tokens=3, do_sample=True, seed=4)

    assert given["generated_tokens"] == told[0]["generated_tokens"]
