"""The progress of a run: tokens, speed, and the time that is left."""

from hypothesis import given
from hypothesis import strategies as st

from tokentape.recorder.turn_progress import TurnProgress

SECOND = 1_000_000


def test_tokens_speed_and_the_longest_time_are_said_before_a_turn_has_finished() -> None:
    progress = TurnProgress(20)
    progress.start_turn(4, 0, {"max_new_tokens": 100})
    progress.token(SECOND // 999)
    before = progress.tokens
    for _ in range(36):
        progress.token(SECOND // 8)

    assert before == "1/100 tokens"
    assert progress.place == "turn 4/20"
    # 63 tokens and 16 turns of 100 tokens, at 8 tokens a second.
    assert progress.tokens == "37/100 tokens, 8.0 tokens/s, at most 3:28 left"


def test_later_turns_are_taken_to_be_as_long_as_the_finished_ones() -> None:
    progress = TurnProgress(3)
    progress.start_turn(1, 0, {"max_new_tokens": 1000})
    progress.finish_turn(10 * SECOND)
    progress.start_turn(2, 0, {"max_new_tokens": 1000})
    progress.token(0)
    progress.token(SECOND)

    assert progress.tokens == "2/1,000 tokens, 1.0 tokens/s, about 0:19 left"
    for _ in range(60):
        progress.token(SECOND)
    assert progress.tokens.endswith("about 0:11 left")


def test_a_run_without_a_plan_says_what_is_left_of_its_turn() -> None:
    progress = TurnProgress()
    progress.start_turn(3, 0, {"max_new_tokens": 4000})
    progress.finish_turn(SECOND)
    progress.start_turn(4, 10, {"max_new_tokens": 4000})
    progress.token(0)
    progress.token(SECOND)

    assert progress.place == "turn 4"
    assert progress.tokens == "12/4,010 tokens, 1.0 tokens/s, at most 1:06:38 left"
    progress.start_turn(5, 0, {})
    progress.token(0)
    progress.token(SECOND)
    assert progress.tokens == "2 tokens, 1.0 tokens/s"
    progress.finish_turn(SECOND)
    assert (progress.tokens, progress.place) == ("", "turn ")


@given(
    st.integers(1, 30),
    st.lists(st.lists(st.integers(0, 10 * SECOND), max_size=20), min_size=1, max_size=5),
    st.integers(1, 50),
)
def test_the_time_left_is_never_negative_and_falls_with_each_turn(
    total: int, turns: list[list[int]], most: int
) -> None:
    progress = TurnProgress(total)
    for number, tokens in enumerate(turns, start=1):
        progress.start_turn(number, 0, {"max_new_tokens": most})
        for duration_us in tokens:
            before = progress.left_us()
            progress.token(duration_us)
            left = progress.left_us()
            assert left is None or left >= 0
            assert before is None or left is not None
        if total <= number and len(tokens) >= most:
            assert progress.left_us() in (None, 0)
        progress.finish_turn(sum(tokens))
        assert progress.left_us() is None
