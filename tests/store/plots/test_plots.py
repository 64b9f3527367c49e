"""`tt.plots` draws the numbers of runs: the same from recordings and from frames."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

import tokentape as tt
from tokentape.demo import _totals
from tokentape.replay.view.document import view_document
from tokentape.store import DatabaseStore

SAMPLED = {"do_sample": True, "temperature": 1.3}


class Recorded(NamedTuple):
    store: DatabaseStore
    run_id: str
    """Four turns, the second with two tool results, the third with a reply prefix."""
    fork_id: str
    """A fork of it at turn 3, of two turns."""


@pytest.fixture(scope="module")
def recorded(make_lm: Callable[..., tt.LoadedModel]) -> Iterator[Recorded]:
    lm = make_lm("llama")
    tools = tt.default_tools(lm)
    calls = [
        tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": "model.norm.weight"}),
        tt.ToolCall(name="list_layers", arguments={}),
    ]
    with tt.open_store("sqlite://") as store:
        for seed in (1, 2, 3):
            with tt.Investigation(
                lm,
                store=store,
                name="run",
                system_prompt="Be brief.",
                tools=tools,
                seed=seed,
                plan={"name": "hot"},
            ) as run:
                run.chat("One?", max_new_tokens=6, **SAMPLED)
                run.chat("Two?", max_new_tokens=6, tool_calls=calls, **SAMPLED)
                run.chat("Three?", max_new_tokens=6, reply_prefix="No", **SAMPLED)
                run.chat("Four?", max_new_tokens=6, **SAMPLED)
        with tt.Investigation.fork(store, run.run_id, lm, at_turn=3, tools=tools) as fork:
            fork.chat("Five?", max_new_tokens=5)
            fork.chat("Six?", max_new_tokens=5)
        assert isinstance(store, DatabaseStore)
        yield Recorded(store, run.run_id, fork.run_id)


def heights(ax: Axes) -> list[list[float]]:
    """Return the heights of the bars, or their lengths if they lie, for each of their colours."""
    lying = ax.get_ylabel() == ""
    return [
        [bar.get_width() if lying else bar.get_height() for bar in container]
        for container in ax.containers
    ]


def ys(ax: Axes, line: int = 0) -> list[float]:
    return list(np.asarray(ax.lines[line].get_ydata(), dtype=float))


def title(ax: Axes) -> str:
    return ax.get_title(loc="left")


def written(ax: Axes) -> list[str]:
    return [each.get_text() for each in ax.texts]


def test_the_surprise_is_that_of_the_sampled_tokens_with_a_mean_and_the_turns(
    recorded: Recorded,
) -> None:
    tokens = tt.tokens_df(recorded.store, recorded.run_id)
    own = tokens[~tokens["forced"]]
    nats = -own["logprob"].astype("float64")
    ax = tt.plots.surprise(recorded.store.recording(recorded.run_id), window=4)
    most = nats.groupby(own["turn"]).mean()

    assert len(own) < len(tokens)
    assert ys(ax) == nats.tolist()
    assert np.isnan(ys(ax, 1)[0])
    assert ys(ax, 1)[3:] == pytest.approx(nats.rolling(4).mean()[3:].tolist())
    assert written(ax) == ["turn ", "1", "2", "3", "4"]
    assert title(ax) == (
        f"Surprise of {len(own)} sampled tokens in 4 turns: most in turn {most.idxmax()}, "
        f"{most.max():.2f} nats on average"
    )


def test_of_a_long_run_some_turns_are_marked_and_the_mean_is_over_a_hundredth() -> None:
    turns = np.repeat(np.arange(1, 101), 100)
    nats = np.random.default_rng(0).exponential(size=len(turns))
    frame = pd.DataFrame({"turn": turns, "step": 0, "logprob": -nats, "forced": False})
    ax = tt.plots.surprise(frame)
    legend = ax.get_legend()

    assert written(ax) == ["turn ", *map(str, range(1, 101, 4))]
    assert ys(ax, 1)[-1] == pytest.approx(nats[-100:].mean())
    assert legend is not None
    assert legend.get_texts()[1].get_text() == "mean of 100 tokens"


def test_the_cache_savings_are_the_computed_and_the_reused_tokens_of_each_turn(
    recorded: Recorded,
) -> None:
    turns = tt.turns_df(recorded.store, recorded.run_id)
    ax = tt.plots.cache_savings(tt.cache_df(recorded.store, recorded.run_id))
    computed, prompts = turns["computed_tokens"].sum(), turns["prompt_tokens"].sum()

    assert heights(ax) == [turns[f"{each}_tokens"].tolist() for each in ("computed", "reused")]
    assert computed < prompts
    assert title(ax) == (
        f"{computed:,} of {prompts:,} prompt tokens computed in turns: "
        f"{prompts / computed:.1f} times fewer"
    )
    assert written(ax) == [each if each != "hit" else "" for each in turns["decision"]]


def test_the_savings_of_a_recording_count_the_system_prompt_as_its_page_does(
    recorded: Recorded,
) -> None:
    recording = recorded.store.recording(recorded.run_id)
    ax = tt.plots.cache_savings(recording)
    page = view_document(recording)["cache"]
    demo = _totals(recording.turns(), recording)
    counts = f"{page['prompt_tokens_computed']:,} of {page['prompt_tokens_without_reuse']:,}"

    assert page["system_tokens"] > 0
    assert title(ax) == f"{counts} prompt tokens computed: {page['times_fewer']:.1f} times fewer"
    assert sum(bar.get_height() for bar in ax.patches) == (
        page["prompt_tokens_without_reuse"] + page["system_tokens"]
    )
    assert written(ax)[0] == "system"
    assert demo == (
        f"prompt tokens processed: {page['prompt_tokens_computed']:,} with reuse (the "
        f"{page['system_tokens']:,} of the system prompt once), "
        f"{page['prompt_tokens_without_reuse']:,} without: {page['times_fewer']:.1f} times fewer"
    )


def test_rounds_of_a_turn_are_added_up_and_nothing_reused_is_said() -> None:
    frame = pd.DataFrame(
        {
            "turn": [1, 1, 2],
            "decision": ["miss", "partial", "miss"],
            "reused_tokens": [0, 5, 0],
            "computed_tokens": [10, 2, 17],
        }
    )
    ax = tt.plots.cache_savings(frame)

    assert heights(ax) == [[12, 17], [5, 0]]
    assert written(ax) == ["miss, partial", "miss"]
    assert title(tt.plots.cache_savings(frame[2:])) == (
        "17 of 17 prompt tokens computed in turns: nothing was reused"
    )


@pytest.mark.parametrize(
    ("measure", "columns", "unit"),
    [
        ("tokens", ["content_tokens", "payload_tokens"], 1),
        ("bytes", ["payload_bytes"], 1000),
        ("time", ["duration_us"], 1000),
    ],
)
def test_the_cost_of_tools_is_that_of_all_their_results(
    recorded: Recorded, measure: Any, columns: list[str], unit: int
) -> None:
    tools = tt.tools_df(recorded.store, recorded.run_id).set_index("name")
    ax = tt.plots.tool_cost(recorded.store.recording(recorded.run_id), measure=measure)
    names = [each.get_text() for each in ax.get_yticklabels()]

    assert sorted(names) == ["get_weight_statistics", "list_layers"]
    assert heights(ax) == [(tools.loc[names, each] / unit).tolist() for each in columns]
    assert [each.partition(", ")[0] for each in written(ax)] == ["1 call", "1 call"]
    assert title(ax).startswith("2 tool results: ")


def test_the_memory_is_that_of_keys_and_values_and_the_peak(recorded: Recorded) -> None:
    cache = tt.cache_df(recorded.store, recorded.run_id)
    ax = tt.plots.memory(cache)

    assert ys(ax, 0) == cache["peak_bytes"].tolist()
    assert ys(ax, 1) == cache["kv_bytes"].tolist()
    assert f"keys and values take up to {cache['kv_bytes'].max() / 1e6:.1f} MB" in title(ax)


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("surprise", tt.tokens_df),
        ("cache_savings", tt.cache_df),
        ("tool_cost", tt.tools_df),
        ("memory", tt.cache_df),
    ],
)
def test_a_recording_is_drawn_like_its_frame_and_a_fork_with_the_turns_it_shares(
    recorded: Recorded, name: str, frame: Callable[..., pd.DataFrame]
) -> None:
    draw = getattr(tt.plots, name)
    store = recorded.store
    from_recording = draw(store.recording(recorded.run_id))
    from_frame = draw(frame(store, recorded.run_id, dtype_backend="pyarrow"))
    of_fork = draw(store.recording(recorded.fork_id))
    parent, own = (frame(store, each) for each in (recorded.run_id, recorded.fork_id))
    # pandas 2.2 warns where a column of one frame has no value.
    frames = [each.dropna(axis="columns", how="all") for each in (parent[parent["turn"] < 3], own)]
    both = draw(pd.concat(frames).reindex(columns=parent.columns).drop(columns="run_id"))

    for one, other in ((from_recording, from_frame), (of_fork, both)):
        system = [*written(one), ""][0] == "system"
        assert system == (name == "cache_savings")
        # A frame has turns only, and its title says so.
        assert system or title(one) == title(other)
        assert written(one)[system:] == written(other)
        assert [each for each in heights(one) if len(each) > 1 or not system] == heights(other)
        for index in range(max(len(one.lines), len(other.lines))):
            assert ys(one, index) == pytest.approx(ys(other, index), nan_ok=True)


def test_protocols_draw_the_median_over_runs_and_the_middle_half(recorded: Recorded) -> None:
    runs = tt.runs_df(recorded.store)
    ids = runs["run_id"][runs["parent_run_id"].isna()]
    tokens = tt.tokens_df(recorded.store, ids)
    ax = tt.plots.protocols(tokens, labels=runs)
    own = tokens[~tokens["forced"]].assign(nats=lambda each: -each["logprob"].astype("float64"))
    by_run = own.groupby(["turn", "run_id"])["nats"].mean().unstack()
    (band,) = (each for each in ax.collections if isinstance(each, PolyCollection))
    edges = {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices}

    assert ys(ax) == pytest.approx(by_run.median(axis=1).tolist())
    assert edges >= {
        (turn, round(quartile, 9))
        for share in (0.25, 0.75)
        for turn, quartile in by_run.quantile(share, axis=1).items()
    }
    assert title(ax) == "Surprise per turn, median and middle half of the runs"
    legend = ax.get_legend()
    assert legend is not None
    assert [each.get_text() for each in legend.get_texts()] == ["hot: 3 runs"]
    same = tt.plots.protocols([recorded.store.recording(each) for each in ids])
    assert ys(same) == ys(ax)


def test_a_plot_goes_into_the_given_axes_and_does_not_import_pyplot(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    figure = Figure()
    above, below = figure.subplots(2)
    recording = recorded.store.recording(recorded.run_id)

    assert tt.plots.surprise(recording, ax=above) is above
    assert tt.plots.memory(recording, ax=below) is below
    assert tt.plots.tool_cost(recording).figure is not figure


def test_a_notebook_shows_new_axes_and_every_plot_names_its_axes(recorded: Recorded) -> None:
    recording = recorded.store.recording(recorded.run_id)
    for name in tt.plots.__all__:
        seeds = tt.seeds_df(recorded.store, [recorded.run_id], metrics="surprise")
        ax = getattr(tt.plots, name)(seeds if name == "seeds" else recording)

        assert ax._repr_png_().startswith(b"\x89PNG")
        assert ax.get_xlabel()
        assert ax.get_ylabel() or name == "tool_cost"


def test_a_run_without_tokens_tools_or_prefills_is_an_empty_plot() -> None:
    with tt.open_store("sqlite://") as store:
        frames = {
            "surprise": tt.tokens_df(store),
            "cache_savings": tt.cache_df(store),
            "tool_cost": tt.tools_df(store),
            "memory": tt.cache_df(store),
            "protocols": tt.tokens_df(store),
        }
    titles = {name: title(getattr(tt.plots, name)(frame)) for name, frame in frames.items()}

    assert titles == {
        "surprise": "Surprise: no token was sampled",
        "cache_savings": "0 of 0 prompt tokens computed in turns: nothing was reused",
        "tool_cost": "Tools: no result was recorded",
        "memory": "Memory: no prefill was recorded",
        "protocols": "Surprise per turn: nothing was recorded",
    }
    assert title(tt.plots.protocols([])) == titles["protocols"]


def test_what_cannot_be_drawn_is_an_error_that_says_what_can(recorded: Recorded) -> None:
    tokens, tools = tt.tokens_df(recorded.store), tt.tools_df(recorded.store)
    wrong: list[tuple[Callable[[], Axes], str]] = [
        (lambda: tt.plots.surprise(tokens), "the rows of 4 runs, and this plot draws one"),
        (lambda: tt.plots.surprise(tools), "no column 'step', 'logprob', 'forced': this plot take"),
        (lambda: tt.plots.memory("run"), "frame cache_df, not a str: give store"),  # type: ignore[arg-type]
        (lambda: tt.plots.tool_cost(tools, measure="cost"), "measure must be 'tokens', 'bytes'"),  # type: ignore[arg-type]
        (lambda: tt.plots.protocols(tokens, interval="sd"), "interval must be 'quartiles' or"),  # type: ignore[arg-type]
        (lambda: tt.plots.protocols(tokens, metric="loss"), "the frame has no column 'loss'"),
        (lambda: tt.plots.protocols(tokens, metric="text"), "the metric 'text' is no number, but"),
        (lambda: tt.plots.protocols(tokens, per_turn="last"), "per_turn must be 'mean' or 'sum'"),  # type: ignore[arg-type]
        (lambda: tt.plots.surprise(tokens, window=0), "window must be at least one token, not 0"),
    ]
    for draw, message in wrong:
        with pytest.raises(tt.StoreError, match=message):
            draw()


def test_a_hostile_name_of_a_tool_is_drawn_as_text(recorded: Recorded) -> None:
    tools = tt.tools_df(recorded.store, recorded.run_id)
    hostile = "$\\frac{\x1b[31m$ \u202e$"
    ax = tt.plots.tool_cost(tools.assign(name=hostile))
    label = ax.get_yticklabels()[0].get_text()
    ax.figure.savefig(BytesIO())

    assert label == "\\$\\frac{\\x1b[31m\\$ \\u202e\\$"


def test_without_matplotlib_the_error_says_what_to_install() -> None:
    program = (
        "import sys, tokentape as tt\n"
        "names = dir(tt.plots)\n"
        "assert 'surprise' in names and 'matplotlib' not in sys.modules\n"
        "sys.modules['matplotlib'] = None\n"
        "try:\n"
        "    tt.plots.surprise(tt.tokens_df(tt.open_store('sqlite://')))\n"
        "except ImportError as error:\n"
        "    assert isinstance(error, tt.TokentapeError)\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == (
        'plots need matplotlib, which is not installed: pip install "tokentape[plots]"\n'
    ), done.stderr
