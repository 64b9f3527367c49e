"""Four turns of a made conversation, and strategies to change one of them."""

from hypothesis import strategies as st

from tests.replay.made_talk import Said

FOUR = [Said(), Said(reply="yes it is.", tool='{"mean": 0.5}'), Said(seed=None), Said()]


said = st.builds(
    Said,
    asked=st.sampled_from(["a ", "b ", "ab "]),
    reply=st.text("xy", min_size=1, max_size=3),
    tool=st.sampled_from([None, None, "[1]", "[2]"]),
    logprobs=st.lists(st.sampled_from([-0.5, -0.25]), max_size=2).map(tuple),
    temperature=st.sampled_from([0.5, 0.5, 0.75]),
    seed=st.sampled_from([None, 3]),
    stop_reason=st.sampled_from(["eos", "eos", "max_time"]),
    duration_us=st.sampled_from([0, 1_000, 2_500]),
)
