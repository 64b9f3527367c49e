"""Numbers of numpy, torch, `decimal` and `fractions` are taken wherever a user gives a number."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tokentape.generation.run_settings import RunSettings
from tokentape.recorder.plain_values import plain_value
from tokentape.store import DatabaseStore, StoreError

WHOLE: tuple[Callable[[int], Any], ...] = (np.int64, np.int16, np.array, torch.tensor, Fraction)
REAL: tuple[Callable[[float], Any], ...] = (np.float32, np.float64, np.array, torch.tensor)
TRUE: tuple[Callable[[bool], Any], ...] = (np.bool_, np.array, torch.tensor)
GREEDY = {"max_new_tokens": 2, "do_sample": False}
SAMPLED = {"max_new_tokens": 3, "do_sample": True}

# The settings of a turn, with a plain value of each.
TURN: dict[str, Any] = {
    "max_new_tokens": 3,
    "min_new_tokens": 2,
    "seed": 5,
    "temperature": 0.7,
    "top_p": 0.9,
    "min_p": 0.05,
    "typical_p": 0.9,
    "top_k": 5,
    "repetition_penalty": 1.1,
    "do_sample": True,
    "use_cache": False,
    "eos_token_id": [2, 7],
    "suppress_tokens": [5, 6],
    "bad_words_ids": [[5, 6]],
    "sequence_bias": [[[5], -0.5]],
    "prefill_chunk_size": 4,
}
# The settings of a run.
RUN: dict[str, Any] = {
    "seed": 3,
    "prefill_chunk_tokens": 8,
    "top_logprobs": 2,
    "cache_bytes": 100_000,
    "threads": 1,
    "context_budget_tokens": 500,
    "tool_calls_max": 2,
    "metadata": {"sweep": 0.5, "list": [1, 2]},
    "template_settings": {"number": 3},
    "plan": None,
}
SCOPE: dict[str, Any] = {
    "coefficient": 0.5,
    "layers": [1, 2],
    "dimensions": [0, 3],
    "positions": (0, 400),
    "from_step": 1,
    "turns": (1, 2),
    "source": {"norm": 2.5},
}


def spellings(value: Any) -> Iterator[Any]:
    """Yield the value with its numbers in the types of other libraries."""
    if isinstance(value, bool):
        yield from (make(value) for make in TRUE)
    elif isinstance(value, int):
        yield from (make(value) for make in WHOLE if abs(value) < 2**15 or make is not np.int16)
    elif isinstance(value, float):
        # A float32 is the float of the same number, so it must hold the value exactly.
        exact = float(np.float32(value)) == value
        yield from (make(value) for make in REAL if exact or make not in (np.float32, torch.tensor))
        yield torch.tensor(value, dtype=torch.float64)
        yield Decimal(str(value))
    elif isinstance(value, dict):
        yield {name: next(spellings(each)) for name, each in value.items()}
    elif isinstance(value, list | tuple):
        yield type(value)(next(spellings(each)) for each in value)
        if all(isinstance(each, int) for each in value):
            yield np.array(value)
            yield torch.tensor(value)
            yield pd.Series(value)


def events(store: DatabaseStore, run_id: str) -> list[tuple[str, dict[str, Any]]]:
    """The recorded bodies of a run, without what differs between two equal runs."""
    changing = (
        "duration_us",
        "process_bytes",
        "transient_bytes",
        "peak_bytes",
        "kv_bytes",
        "environment",
    )
    records = store.recording(run_id).events()
    return [
        (
            type(each.event).__name__,
            {
                name: getattr(each.event, name)
                for name in each.event.__slots__
                if name not in changing
            },
        )
        for each in records
    ]


def recorded(
    lm: tt.LoadedModel,
    act: Callable[[tt.Investigation], Any] = lambda run: run.chat("Hi", **GREEDY),
    **settings: Any,
) -> list[Any]:
    with tt.open_store("sqlite://") as store:
        with tt.Investigation(
            lm, store=store, name="n", system_prompt="Hi.", tools=tt.default_tools(lm), **settings
        ) as run:
            act(run)
        return events(store, run.run_id)


@pytest.mark.parametrize("name", TURN)
def test_a_setting_of_a_turn(lm: tt.LoadedModel, name: str) -> None:
    def with_value(value: Any) -> list[Any]:
        return recorded(lm, lambda run: run.chat("Hi", **{**SAMPLED, name: value}))

    expected = with_value(TURN[name])
    for value in spellings(TURN[name]):
        assert with_value(value) == expected, repr(value)


@pytest.mark.parametrize("name", [name for name, value in RUN.items() if value is not None])
def test_a_setting_of_a_run(lm: tt.LoadedModel, name: str) -> None:
    expected = recorded(lm, **{name: RUN[name]})
    for value in spellings(RUN[name]):
        assert recorded(lm, **{name: value}) == expected, repr(value)


@pytest.mark.parametrize("name", SCOPE)
def test_an_intervention(lm: tt.LoadedModel, name: str) -> None:
    def steered(value: Any) -> list[Any]:
        scope = {"layers": 1, "coefficient": 1.0, name: value}
        vector = torch.ones(2 if name == "dimensions" else 64)
        made = tt.Intervention.steer("calm", scope.pop("layers"), vector, **scope)

        def act(run: tt.Investigation) -> None:
            run.intervene(made, clear_cache=True)
            run.chat("Hi", **GREEDY)

        return recorded(lm, act)

    expected = steered(SCOPE[name])
    for value in spellings(SCOPE[name]):
        assert steered(value) == expected, repr(value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_of_numpy(lm: tt.LoadedModel, dtype: Any) -> None:
    rows = np.linspace(-1, 1, 128).reshape(2, 64).astype(dtype)
    tensor = torch.tensor(rows.astype(np.float64)).to(torch.float32)
    for ours, theirs in (
        (tt.Intervention.steer("a", 1, rows[0]), tt.Intervention.steer("a", 1, tensor[0])),
        (
            tt.Intervention.ablate("a", 1, mean=rows[1]),
            tt.Intervention.ablate("a", 1, mean=tensor[1]),
        ),
        (
            tt.Intervention.patch("a", 1, rows, start=np.int64(3)),
            tt.Intervention.patch("a", 1, tensor, start=3),
        ),
    ):
        assert ours.tensor_sha256 == theirs.tensor_sha256
        assert ours.tensor_start == theirs.tensor_start


@pytest.mark.parametrize("make", WHOLE)
def test_prompts_layers_and_switches(make: Callable[[int], Any], lm: tt.LoadedModel) -> None:
    ids = [5, 6, 7]
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, seed=make(3))
    expected = generator.generate(ids, **GREEDY)["generated_tokens"]

    assert (
        generator.generate([make(each) for each in ids], **GREEDY)["generated_tokens"] == expected
    )
    assert torch.equal(
        tt.capture(lm.model, [make(each) for each in ids], make(1), (make(0), make(2))),
        tt.capture(lm.model, ids, 1, (0, 2)),
    )
    generator.watch([make(1)])
    states: list[Any] = []
    generator.generate(ids, observer=states.append, observe_layers=[make(0)], **GREEDY)
    assert list(states[0].hidden_states) == ["model.layers.0"]


def test_calls_of_tools_and_their_results(lm: tt.LoadedModel) -> None:
    def halve(number: float, times: int, really: bool) -> dict[str, Any]:
        """Halve a number.

        Args:
            number: The number.
            times: How often.
            really: Whether to.
        """
        return {"half": np.float32(number / 2**times), "list": np.arange(times), "really": really}

    tools = tt.ToolInterface([halve], seconds_max=np.float64(20), output_chars_max=np.int64(500))
    plain = tools.call("halve", {"number": 3.0, "times": 2, "really": True})
    assert plain.error is None
    assert plain.content == '{"half": 0.75, "list": [0, 1], "really": true}'

    arguments = {"number": np.float32(3), "times": torch.tensor(2), "really": np.bool_(True)}
    assert tools.call("halve", arguments).content == plain.content
    call = tt.ToolCall(
        name="get_weight_statistics",
        arguments={"layer_name": "model.norm.weight", "compact": np.bool_(True)},
    )
    same = tt.ToolCall(name=call.name, arguments=plain_value(call.arguments))

    def look(each: tt.ToolCall) -> list[Any]:
        return recorded(lm, lambda run: run.chat("Hi", tool_calls=[each], **GREEDY))

    assert look(call) == look(same)


def test_turns_of_a_recorded_run(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    with tt.Investigation(lm, store=store, name="n", system_prompt="Hi.") as run:
        for _ in range(2):
            run.chat("Hi", **GREEDY)
    recording = store.recording(run.run_id)

    for turn in spellings(2):
        assert set(tt.tokens_df(store, run.run_id, turns=turn)["turn"]) == {2}
        assert [each.turn for each in tt.verify(recording, lm, turns=[turn]).turns] == [2]
        assert [each.turn for each in tt.regenerate(recording, lm, turns=turn).turns] == [2]
        with tt.Investigation.fork(
            store, run.run_id, lm, at_turn=turn, seed=turn, changes={"turn": turn}
        ) as fork:
            changes = {"do_sample": True, "top_k": turn, "seed": turn}
            fork.retake(recording.turns()[1], changes=changes)
    for turns in (np.array([1, 2]), torch.tensor([1, 2]), pd.Series([1, 2]), range(1, 3)):
        assert len(tt.turns_df(store, run.run_id, turns=turns)) == 2
        assert len(tt.verify(recording, lm, turns=turns).turns) == 2  # type: ignore[arg-type]
    assert tt.verify(recording, lm, chunk_tokens=np.int64(16)).verdict is tt.Verdict.VERIFIED


def test_numbers_that_are_not_whole_choose_no_turn(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with pytest.raises(StoreError, match="whole numbers"):
        tt.tokens_df(store, turns=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [float, np.float32, np.float64, torch.tensor, Decimal])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_refused(
    make: Callable[[Any], Any], text: str, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    number = make(text if make is Decimal else float(text))
    for name in ("temperature", "top_p", "repetition_penalty", "max_new_tokens", "top_k", "seed"):
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, tt.Recorder(store))
        with pytest.raises(tt.ModelError):
            generator.generate("Hi", **{**SAMPLED, name: number})
    with pytest.raises(tt.ModelError):
        tt.Intervention.scale("loud", 1, number)
    with pytest.raises(tt.ModelError):
        RunSettings(tool_calls_max=number)
    assert store.summaries() == []


def test_whole_floats_are_integers_where_a_whole_number_is_needed(lm: tt.LoadedModel) -> None:
    # A row of a data frame has floats only, if any of its columns has.
    row = pd.DataFrame({"t": [0.7], "new": [3], "k": [5], "seed": [7], "max": [2]}).iloc[0]
    settings = {"max_new_tokens": row["new"], "top_k": row["k"], "temperature": row["t"]}
    plain = {"max_new_tokens": 3, "top_k": 5, "temperature": 0.7}
    with_floats = recorded(
        lm,
        lambda run: run.chat("Hi", do_sample=True, seed=row["seed"], **settings),
        seed=row["seed"],
        tool_calls_max=row["max"],
    )

    assert with_floats == recorded(
        lm,
        lambda run: run.chat("Hi", do_sample=True, seed=7, **plain),
        seed=7,
        tool_calls_max=2,
    )
    with pytest.raises(tt.ModelError, match="whole number"):
        recorded(lm, lambda run: run.chat("Hi", max_new_tokens=2.5))


def test_a_column_of_a_data_frame_is_a_vector() -> None:
    column = pd.Series([0.5, -1.0, 2.0])
    steered = tt.Intervention.steer("a", 1, column)  # type: ignore[arg-type]
    assert steered.tensor_sha256 == tt.Intervention.steer("a", 1, column.to_numpy()).tensor_sha256


@given(number=st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.booleans())
def test_a_plain_number_is_the_number_itself(number: Any) -> None:
    wide = {bool: np.bool_, int: np.int64, float: np.float64}[type(number)]
    array = np.array(wide(number))
    for value in (wide(number), array, torch.from_numpy(array)):
        plain = plain_value(value)
        assert type(plain) is type(number)
        assert plain == number
    if isinstance(number, float) and abs(number) < 1e38:
        assert plain_value(np.float32(number)) == float(np.float32(number))


def test_values_without_such_numbers_stay_the_same_object() -> None:
    for value in (
        [1, [2.0, "x"]],
        {"a": (None, True)},
        "text",
        object(),
        np.datetime64("2026-01-01"),
    ):
        assert plain_value(value) is value
