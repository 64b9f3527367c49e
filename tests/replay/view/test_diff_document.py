"""Two recordings in one document: the differences of `diff`, and replies aligned by token."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tests.replay.view.documents import through_json, unpacked
from tokentape.recorder.projections import join_rounds
from tokentape.replay.view.alignment import Aligner
from tokentape.replay.view.diff_document import diff_document

RECORDINGS = Path(__file__).parents[2] / "recordings"

replies = st.lists(st.integers(0, 4), max_size=30)


@given(a=replies, b=replies)
def test_an_alignment_covers_both_replies_and_calls_equal_what_is_equal(
    a: list[int], b: list[int]
) -> None:
    pieces = Aligner().align(a, b)

    place = (0, 0)
    for tag, a0, a1, b0, b1 in pieces:
        assert (a0, b0) == place
        assert (tag == "equal") == (a[a0:a1] == b[b0:b1])
        assert (a1, b1) > place
        place = (a1, b1)
    assert place == (len(a), len(b))


def test_loops_of_two_tokens_are_aligned_at_their_ends_only() -> None:
    pieces = Aligner().align([1, 2] * 5_000 + [3], [2, 1, 1] * 3_000 + [3])

    assert [tag for tag, *_ in pieces] == ["replace", "equal"]


def test_a_diff_of_a_run_and_its_fork_has_the_tokens_and_differences_of_both() -> None:
    store = tt.open_store(RECORDINGS / "0.2.0.tape")
    a, b = (store.recording(each.run_id) for each in store.summaries()[2:4])

    document = through_json(diff_document(a, b))
    expected = tt.diff(a, b)

    assert document["kind"] == "diff"
    assert document["same"] is expected.same is False
    assert document["first_divergent_turn"] == 2
    for name, recording in (("a", a), ("b", b)):
        columns = unpacked(document[f"tokens_{name}"])
        turns = {each.number: each for each in join_rounds(recording.turns())}
        for shown in document["turns"]:
            if shown[name] is None:
                assert shown["turn"] not in turns
                continue
            turn, first = turns[shown["turn"]], shown[name]["first_token"]
            ids = columns["token_id"][first : first + shown[name]["tokens"]]
            assert tuple(ids.tolist()) == turn.reply_ids
            assert shown[name]["text"] == turn.reply_text
    for shown, turn in zip(document["turns"], expected.turns, strict=True):
        assert shown["differing"] == list(turn.differing)
        assert [each["field"] for each in shown["inside_model"]] == [
            each.field for each in turn.inside_model
        ]


def test_a_diff_of_a_run_with_itself_is_the_same_and_aligned_as_equal() -> None:
    store = tt.open_store(RECORDINGS / "0.1.0.tape")
    recording = store.recording(store.summaries()[0].run_id)

    document = through_json(diff_document(recording, recording))

    assert document["same"]
    assert document["first_divergent_turn"] is None
    for shown in document["turns"]:
        tokens = shown["a"]["tokens"]
        assert shown["alignment"] == [["equal", 0, tokens, 0, tokens]]
    a, b = (unpacked(document[f"tokens_{name}"]) for name in "ab")
    assert all(np.array_equal(a[name], b[name], equal_nan=True) for name in a)
