"""`seeds_df` gives means over seeds with intervals, and `tt.plots.seeds` draws them."""

import math
from io import BytesIO
from itertools import count, product
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tokentape as tt
from tests.made_events import run_started
from tests.store.made_runs import token
from tokentape.recorder.events import (
    RunForked,
    RunStarted,
    ToolCalled,
    ToolReturned,
    TurnFinished,
    TurnStarted,
)
from tokentape.store import DatabaseStore
from tokentape.store.frames.intervals import interval_of_mean, resampled, t_quantile

TURN: dict[str, Any] = {
    "prompt_tokens": 3,
    "kept_tokens": 0,
    "kept_chars": 0,
    "added_ids": (1, 2, 3),
    "added_text": "abc",
    "history_reason": "",
    "seed": 1,
    "sampling": {"do_sample": True},
}
CLOCK = count(1_800_000_000_000_000, 1500)


def talk(
    store: DatabaseStore,
    plan: str | None,
    seed: int | None,
    *turns: list[float],
    calls: int = 0,
    cut: bool = False,
    model: str = "m",
) -> str:
    """Record turns whose tokens have these log-probabilities; `cut` leaves the last one open."""
    settings = {} if plan is None else {"plan": {"name": plan}}
    started: RunStarted = run_started(name="named", seed=seed, model=model, settings=settings)
    with tt.Recorder(store, clock_us=CLOCK.__next__) as recorder:
        recorder.record(started)
        for number, logprobs in enumerate(turns, 1):
            for call in range(calls):
                look(recorder, f"c{number}-{call}")
            recorder.record(TurnStarted(turn=number, **TURN))
            for step, logprob in enumerate(logprobs):
                made = token(number, step, candidates=0)
                recorder.record(
                    type(made)(**{**fields_of(made), "logprob": logprob, "entropy": -2 * logprob})
                )
            if not (cut and number == len(turns)):
                recorder.record(finished(number, len(logprobs)))
    return recorder.run_id


def fields_of(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__dataclass_fields__ if name != "version"}


def finished(turn: int, tokens: int) -> TurnFinished:
    return TurnFinished(
        turn=turn,
        stop_reason="eos",
        generated_tokens=tokens,
        text="so",
        stop_text="",
        generator_sha256="",
        duration_us=2_500,
    )


def look(recorder: tt.Recorder, call_id: str) -> None:
    sha256 = "0" * 64
    recorder.record(ToolCalled(call_id=call_id, name="look", arguments={}))
    recorder.record(
        ToolReturned(
            call_id=call_id,
            name="look",
            content="seen",
            content_tokens=3,
            payload_sha256=sha256,
            payload_bytes=4,
            payload_tokens=5,
            tensors=(),
            error=None,
            duration_us=1_250,
        )
    )


def rows_of(frame: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = frame[frame["metric"] == metric].to_dict("records")  # type: ignore[assignment]
    return rows


def test_a_turn_s_mean_is_over_runs_each_of_which_counts_once(store: DatabaseStore) -> None:
    talk(store, "cold", 1, [-1.0, -3.0], [-1.0])
    talk(store, "cold", 2, [-4.0], [-2.0])
    talk(store, "cold", 3, [-6.0, -6.0, -6.0])
    frame = tt.seeds_df(store)
    first, second = rows_of(frame, "surprise")

    # The runs have means of 2, 4 and 6 nats: a mean of 4, a deviation of 2, t(0.975, 2) = 4.3027.
    assert (first["protocol"], first["turn"], first["mean"], first["runs"]) == ("cold", 1, 4.0, 3)
    assert first["high"] == pytest.approx(4 + 4.3027 * 2 / math.sqrt(3))
    assert first["low"] == pytest.approx(4 - 4.3027 * 2 / math.sqrt(3))
    # 1 and 2 nats: t(0.975, 1) = 12.7062.
    assert (second["turn"], second["mean"], second["runs"]) == (2, 1.5, 2)
    assert second["high"] - 1.5 == pytest.approx(12.7062 * math.sqrt(0.5) / math.sqrt(2))
    assert [each["mean"] for each in rows_of(frame, "logprob")] == [-4.0, -1.5]
    assert [each["mean"] for each in rows_of(frame, "entropy")] == [8.0, 3.0]
    assert [each["mean"] for each in rows_of(frame, "tokens")] == [2.0, 1.0]
    assert [each["mean"] for each in rows_of(frame, "tool_calls")] == [0.0, 0.0]


def test_plans_and_models_are_groups_and_one_run_has_no_interval(store: DatabaseStore) -> None:
    talk(store, "a", 1, [-1.0], calls=2)
    talk(store, "a", 1, [-2.0], model="other")
    talk(store, None, 1, [-3.0])
    frame = tt.seeds_df(store, metrics=["tool_calls", "surprise"])

    assert [
        tuple(row.values()) for row in frame[["protocol", "model", "mean"]].to_dict("records")
    ] == [
        ("a", "m", 2.0),
        ("a", "other", 0.0),
        ("named", "m", 0.0),
        ("a", "m", 1.0),
        ("a", "other", 2.0),
        ("named", "m", 3.0),
    ]
    assert frame["low"].isna().all()
    assert frame["high"].isna().all()
    assert frame["runs"].tolist() == [1] * 6


def test_steps_have_rows_of_their_own(store: DatabaseStore) -> None:
    talk(store, "a", 1, [-1.0, -2.0])
    talk(store, "a", 2, [-3.0])
    frame = tt.seeds_df(store, by="step", metrics="surprise")

    assert frame[["turn", "step", "mean", "runs"]].to_numpy().tolist() == [
        [1, 0, 2.0, 2],
        [1, 1, 2.0, 1],
    ]


def test_turns_that_were_cut_off_and_forks_are_no_part_of_a_sample(store: DatabaseStore) -> None:
    parent = talk(store, "a", 1, [-1.0], [-9.0], cut=True)
    fork = talk(store, "a", 2, [-5.0])
    with tt.Recorder(store) as recorder:
        recorder.record(run_started(name="f", seed=9, model="m", settings={"plan": {"name": "a"}}))
        recorder.record(
            RunForked(parent_run_id=parent, parent_seq=1, parent_hash="", at_turn=2, changes={})
        )
    frame = tt.seeds_df(store, metrics="surprise")

    assert frame[["turn", "mean", "runs"]].to_numpy().tolist() == [[1, 3.0, 2]]
    assert tt.seeds_df(store, fork, metrics="surprise")["mean"].tolist() == [5.0]


def test_two_runs_of_one_seed_are_refused_as_a_sample(store: DatabaseStore) -> None:
    first = talk(store, "a", 1, [-1.0])
    second = talk(store, "a", 1, [-1.0])
    talk(store, "a", None, [-1.0])
    talk(store, "a", None, [-2.0])

    with pytest.raises(tt.StoreError, match=f"runs {first} and {second} are both of a with seed 1"):
        tt.seeds_df(store)
    by_name = tt.seeds_df(store, [each.run_id for each in store.summaries()[1:]])
    assert rows_of(by_name, "surprise")[0]["runs"] == 3


def test_unknown_words_are_refused(store: DatabaseStore) -> None:
    for given, said in (
        ({"metrics": ["speed"]}, "no metric 'speed' by turn; there are entropy, logprob"),
        ({"metrics": "tokens", "by": "step"}, "no metric 'tokens' by step"),
        ({"by": "run"}, "by must be 'turn' or 'step'"),
        ({"interval": "normal"}, "interval must be 't' or 'bootstrap'"),
    ):
        with pytest.raises(tt.StoreError, match=said):
            tt.seeds_df(store, **given)  # type: ignore[arg-type]
    empty = tt.seeds_df(store)
    assert (len(empty), list(empty.columns)[:4]) == (0, ["protocol", "turn", "step", "metric"])


def test_every_family_of_types_has_the_same_values(store: DatabaseStore) -> None:
    for seed in (1, 2):
        talk(store, "a", seed, [-1.0 * seed])
    frames = [
        tt.seeds_df(store, dtype_backend=each) for each in (None, "numpy_nullable", "pyarrow")
    ]

    assert {len(each) for each in frames} == {5}
    for each, name in product(frames[1:], ("mean", "low", "high", "runs")):
        assert each[name].tolist() == frames[0][name].tolist()


def test_quantiles_of_student_s_t_leave_a_fortieth_on_each_side() -> None:
    for degrees in (1, 2, 5, 10, 30, 31, 100):
        # P(T < t) for T = tan(x) √n, where the density is that of cos(x)^(n - 1).
        x = np.linspace(-math.pi / 2, math.pi / 2, 400_001)
        density = np.cos(x) ** (degrees - 1)
        below = density[x < math.atan(t_quantile(degrees) / math.sqrt(degrees))].sum()
        assert below / density.sum() == pytest.approx(0.975, abs=5e-5)


def test_a_bootstrap_interval_has_the_quantiles_of_resampled_means() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0])
    means = sorted(values[row].mean() for row in resampled(4))
    mean, low, high = interval_of_mean(values, "bootstrap")

    assert (mean, resampled(4).shape) == (3.75, (1000, 4))
    assert means[24] <= low <= means[25]
    assert means[974] <= high <= means[975]
    assert interval_of_mean(values, "bootstrap") == (mean, low, high)
    assert math.isnan(interval_of_mean(values[:1])[1])


def test_each_plan_is_a_line_with_a_band(store: DatabaseStore) -> None:
    for seed, plan in product((1, 2), ("cold", "$hot$")):
        talk(store, plan, seed, [-1.0 * seed], [-2.0])
    talk(store, "alone", 1, [-1.0])
    frame = tt.seeds_df(store)
    ax = tt.plots.seeds(frame)
    legend = ax.get_legend()
    bands = [
        np.asarray(each.get_paths()[0].vertices) for each in ax.collections if each.get_paths()
    ]

    assert legend is not None
    assert [each.get_text() for each in legend.get_texts()] == [
        r"\$hot\$: 2 runs",
        "alone: 1 run",
        "cold: 2 runs",
    ]
    assert [list(np.asarray(line.get_ydata())) for line in ax.lines] == [[1.5, 2], [1], [1.5, 2]]
    low, high = rows_of(frame, "surprise")[0]["low"], rows_of(frame, "surprise")[0]["high"]
    assert {low, high} <= set(bands[0][:, 1])
    assert ax.get_title(loc="left") == "Surprise per turn, mean and 95 % interval over runs"
    ax.figure.savefig(BytesIO())


def test_the_steps_of_one_turn_are_drawn(store: DatabaseStore) -> None:
    for seed in (1, 2):
        talk(store, "a", seed, [-1.0, -2.0], [-1.0])
    frame = tt.seeds_df(store, by="step")

    with pytest.raises(tt.StoreError, match="the steps of 2 turns: select one with"):
        tt.plots.seeds(frame)
    ax = tt.plots.seeds(frame[frame["turn"] == 1], metric="entropy")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "entropy (nats)")
    assert list(np.asarray(ax.lines[0].get_xdata())) == [0, 1]
    with pytest.raises(tt.StoreError, match="no metric 'tokens'; it has entropy, logprob"):
        tt.plots.seeds(frame, metric="tokens")
    with pytest.raises(tt.StoreError, match="this plot takes seeds_df"):
        tt.plots.seeds(tt.runs_df(store))
    blank = tt.plots.seeds(frame[:0])
    assert blank.get_title(loc="left") == "Surprise per turn: nothing was recorded"
