"""The document of a recording says what its events say."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tokentape as tt
from tests.replay.view.documents import through_json, unpacked
from tokentape.recorder.projections import join_rounds
from tokentape.replay.view.document import view_document
from tokentape.store import DatabaseStore

ROOT = Path(__file__).parents[3]
RECORDINGS = Path(__file__).parents[2] / "recordings"


def _runs(version: str) -> list[tt.Recording]:
    store = tt.open_store(RECORDINGS / f"{version}.tape")
    return [store.recording(each.run_id) for each in store.summaries()]


@pytest.fixture(params=["0.1.0", "0.2.0"])
def documents(request: pytest.FixtureRequest) -> list[tuple[tt.Recording, dict[str, Any]]]:
    return [(each, through_json(view_document(each))) for each in _runs(request.param)]


def test_every_released_recording_has_a_document_with_all_its_tokens_and_texts(
    documents: list[tuple[tt.Recording, dict[str, Any]]],
) -> None:
    for recording, document in documents:
        joined = join_rounds(recording.turns())
        columns = unpacked(document["tokens"])

        assert document == through_json(view_document(replace(recording, read_tokens=None)))
        assert document["run"]["run_id"] == recording.run_id
        assert [each["turn"] for each in document["turns"]] == [each.number for each in joined]
        tokens = [token for turn in joined for token in turn.tokens]
        for name in ("turn", "step", "position", "logprob", "logprob_processed", "entropy"):
            assert columns[name].tolist() == [getattr(each, name) for each in tokens]
        assert columns["top_gap"].tolist() == [each.top_gap for each in tokens]
        assert document["tokens"]["count"] == len(tokens)
        for turn, shown in zip(joined, document["turns"], strict=True):
            own = columns["turn"][shown["first_token"] :][: shown["tokens"]]
            assert (own == turn.number).all()
            texts = [each["text"] for each in shown["rounds"]]
            if turn.finished is not None:
                assert "".join(texts) == turn.finished.text
            assert sum(each["tokens"] for each in shown["rounds"]) == len(turn.tokens)


def test_the_parts_of_all_rounds_have_the_text_of_the_prompts(
    documents: list[tuple[tt.Recording, dict[str, Any]]],
) -> None:
    for recording, document in documents:
        rounds = [each for turn in document["turns"] for each in turn["rounds"]]
        prompts = [turn.prompt_text for turn in recording.turns() if not turn.continued_tokens]
        assert len(rounds) == len(prompts)
        for shown, prompt in zip(rounds, prompts, strict=True):
            added = "".join(part["text"] for part in shown["parts"])
            assert prompt.endswith(added)
            assert added


def test_the_largest_numbers_of_tokens_are_the_highlights(
    documents: list[tuple[tt.Recording, dict[str, Any]]],
) -> None:
    for _, document in documents:
        columns = unpacked(document["tokens"])
        if not len(columns["entropy"]):
            continue  # an imported conversation
        found = document["highlights"]
        assert columns["entropy"][found["least_sure_token"]] == columns["entropy"].max()
        assert columns["duration_us"][found["slowest_token"]] == columns["duration_us"].max()
        entropies = {each["turn"]: each["entropy_mean"] for each in document["turns"]}
        assert entropies[found["least_sure_turn"]] == pytest.approx(max(entropies.values()))


def test_the_example_of_the_page_on_documents_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "view-document.md").read_text(encoding="utf-8")
    monkeypatch.chdir(ROOT)

    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(block, "docs/view-document.md", "exec"), {})

    assert capsys.readouterr().out == "Be kind.\n"


def test_a_document_from_a_row_on_has_the_columns_from_there() -> None:
    recording = _runs("0.2.0")[0]

    whole = view_document(recording)["tokens"]
    rest = view_document(recording, tokens_from=3)["tokens"]

    assert rest["first"] == 3
    assert rest["count"] == whole["count"] - 3
    assert np.array_equal(unpacked(rest)["token_id"], unpacked(whole)["token_id"][3:])


def test_a_fork_at_a_token_has_the_texts_of_the_tokens_and_candidates_that_it_shares(
    store: DatabaseStore, lm: tt.LoadedModel
) -> None:
    """The parent spells the tokens of a turn after its end, which the fork does not share."""
    with tt.Investigation(lm, store=store, name="parent", system_prompt="Be kind.", seed=3) as run:
        run.chat("Go.", max_new_tokens=8)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=1, at_token=6, token="Z") as fork:
        pass

    document = through_json(view_document(store.recording(fork.run_id)))
    columns = unpacked(document["tokens"])

    spelled = set(document["vocabulary"]["ids"])
    assert set(columns["token_id"].tolist()) <= spelled
    assert set(columns["top_ids"].ravel().tolist()) - {-1} <= spelled
