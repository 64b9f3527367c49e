"""Comparison of runs of a tiny model."""

from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tokentape.replay.reports.diff_report import render


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, make_lm: Any) -> tuple[Path, dict[str, str]]:
    """Record runs of a tiny model that differ in one thing each."""
    path = tmp_path_factory.mktemp("diffs") / "runs.db"
    lm = make_lm("llama")
    layer = "model.layers.1.mlp.up_proj.weight"
    call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": layer})

    def run(
        store: Any,
        *,
        seed: int = 7,
        word: str = "kind",
        questions: tuple[str, ...] = ("What?", "Why?", "How?"),
        lm: tt.LoadedModel = lm,
        **settings: Any,
    ) -> str:
        with tt.Investigation(
            lm,
            store=store,
            name="t",
            system_prompt=f"Be {word}.",
            tools=tt.default_tools(lm),
            seed=seed,
        ) as investigation:
            for number, question in enumerate(questions):
                chosen = {"do_sample": True, "temperature": 0.8} | settings if number else {}
                calls = [call] if number == 1 else []
                investigation.chat(question, tool_calls=calls, max_new_tokens=4, **chosen)
        return investigation.run_id

    with tt.open_store(path) as store:
        ids = {
            "one": run(store),
            "again": run(store),
            "other seed": run(store, seed=8),
            "other temperature": run(store, temperature=3.0),
            "other word": run(store, questions=("What?", "Why?", "Who?")),
            "other system prompt": run(store, word="cold"),
            "no cache": run(store, use_cache=False),
            "a turn more": run(store, questions=("What?", "Why?", "How?", "So?")),
        }
    return path, ids


# The first divergent turn of each run and its difference; no turn where none diverges.
EXPECTED: dict[str, tuple[int | None, str, str]] = {
    "other seed": (2, "sampling", "seed"),
    "other temperature": (2, "sampling", "temperature"),
    "other word": (3, "prompt", "user message: 'How?' / 'Who?'"),
    "other system prompt": (1, "prompt", "system prompt: ' kind.' / ' cold.'"),
    "no cache": (None, "cache", "cache decision in turns 2 and 3"),
    "a turn more": (4, "turn", "only b has turn 4"),
}


@pytest.mark.parametrize("other", EXPECTED)
def test_real_runs_diverge_where_they_were_changed(
    real: tuple[Path, dict[str, str]], other: str
) -> None:
    path, ids = real
    turn, part, words = EXPECTED[other]
    with tt.open_store(path) as store:
        found = tt.diff(store.recording(ids["one"]), store.recording(ids[other]))

    assert (found.first_divergent_turn.turn if found.first_divergent_turn else None) == turn
    assert part in next(each for each in found.turns if not each.same).differing
    assert words in render(found)


def test_the_same_script_and_seed_are_the_same_run(real: tuple[Path, dict[str, str]]) -> None:
    path, ids = real
    with tt.open_store(path) as store:
        found = tt.diff(store.recording(ids["one"]), store.recording(ids["again"]))

    assert found.same
    assert found.a.run_id != found.b.run_id
