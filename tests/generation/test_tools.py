"""Tools: schemas, arguments, limits and failures."""

import contextvars
import enum
import functools
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation.errors import ToolFailedWarning
from tokentape.generation.introspection import WeightInspector
from tokentape.store import DatabaseStore


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("get_weight_statistics", {"layer_name": "nothing.like.it"}, "there is no layer"),
        ("get_weight_statistics", {"wrong": 1}, "there is no argument 'wrong'"),
        ("no_such_tool", {}, "there is no tool 'no_such_tool'"),
    ],
)
def test_the_error_of_a_tool_is_a_message_and_the_run_continues(
    lm: tt.LoadedModel,
    store: DatabaseStore,
    name: str,
    arguments: dict[str, object],
    complaint: str,
) -> None:
    with tt.Investigation(
        lm, store=store, name="t", system_prompt="Be kind.", tools=tt.default_tools(lm)
    ) as run:
        call = tt.ToolCall(name=name, arguments=arguments)
        with pytest.warns(ToolFailedWarning, match=complaint):
            reply = run.chat("Look.", tool_calls=[call], max_new_tokens=2)
    (result,) = reply.tool_results

    assert complaint in (result.error or "")
    assert complaint in store.recording(run.run_id).turns()[0].prompt_text
    assert store.summaries()[0].status == "finished"


def test_tools_describe_themselves(lm: tt.LoadedModel) -> None:
    tools = tt.default_tools(lm)
    schema = tools.get_available_tools()[0]

    assert schema["name"] == "get_weight_statistics"
    assert schema["parameters"]["required"] == ["layer_name"]
    assert "- compact (boolean, optional, default true): " in tools.documentation()


class Mode(enum.Enum):
    FAST = "fast"
    EXACT = "exact"


def search(
    name: str,
    top: int = 3,
    layers: list[int] | None = None,
    mode: Mode = Mode.FAST,
    share: float = 0.5,
    deep: bool = False,
) -> Any:
    """
    Search for something.

    Args:
        name: What to search for.
        top: How many to give.
        layers: Where to search.
        mode: How to search.
        share: How much of it.
        deep: Whether to go on.
    """
    return [name, top, layers, mode.value, share, deep]


def failing(value: Any) -> Callable[[], Any]:
    """Return a tool that returns the value, or raises it."""

    def look() -> Any:
        """
        Look.
        """
        if isinstance(value, BaseException):
            raise value
        return value

    return look


def test_defaults_are_in_the_schema_and_in_the_documentation() -> None:
    tools = tt.ToolInterface([search])
    (schema,) = tools.get_available_tools()
    defaults = {
        name: parameter["default"]
        for name, parameter in schema["parameters"]["properties"].items()
        if "default" in parameter
    }

    assert defaults == {"top": 3, "layers": None, "mode": "fast", "share": 0.5, "deep": False}
    assert "- layers (array of integer or null, optional, default null): " in tools.documentation()
    assert '- mode ("fast" or "exact", optional, default "fast"): ' in tools.documentation()
    schema["parameters"].clear()
    assert tools.get_available_tools()[0]["parameters"]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ({"name": "a", "top": "7", "deep": "True"}, ["a", 7, None, "fast", 0.5, True]),
        ({"name": "a", "top": 7.0, "share": "2"}, ["a", 7, None, "fast", 2, False]),
        ({"name": "a", "layers": "[1, 2]"}, ["a", 3, [1, 2], "fast", 0.5, False]),
        ({"name": "7", "layers": ["1"]}, ["7", 3, [1], "fast", 0.5, False]),
        ({"name": "null", "layers": "null"}, ["null", 3, None, "fast", 0.5, False]),
        ({"name": "[1]", "mode": "exact"}, ["[1]", 3, None, "exact", 0.5, False]),
    ],
)
def test_arguments_are_cast_where_nothing_is_lost(
    arguments: dict[str, Any], given: list[Any]
) -> None:
    assert json.loads(tt.ToolInterface([search]).call("search", arguments).content) == given


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "argument 'name' is missing. search takes name (string), top (integer, optional)"),
        ({"name": "a", "tops": 3}, "there is no argument 'tops' (did you mean 'top'?)"),
        ({"name": 3}, "argument 'name' must be a string, not 3"),
        ({"name": "a", "top": "many"}, "argument 'top' must be an integer, not \"many\""),
        ({"name": "a", "top": 7.5}, "argument 'top' must be an integer, not 7.5"),
        ({"name": "a", "top": True}, "argument 'top' must be an integer, not true"),
        ({"name": "a", "deep": 1}, "argument 'deep' must be true or false, not 1"),
        ({"name": "a", "layers": [1, "b"]}, "argument 'layers[1]' must be an integer, not \"b\""),
        ({"name": "a", "layers": "all"}, "must be an array or null, not \"all\""),
        ({"name": "a", "mode": "exct"}, "one of \"fast\", \"exact\", not \"exct\" (did you mean"),
        ({"name": 3, "top": None}, "'name' must be a string, not 3; argument 'top' must be an"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_named_before_the_tool_runs(
    arguments: dict[str, Any], complaint: str
) -> None:
    result = tt.ToolInterface([search]).call("search", arguments)

    assert complaint in (result.error or "")
    assert json.loads(result.content) == {"error": result.error}


def test_a_function_that_cannot_be_described_to_a_model_is_rejected_by_name() -> None:
    def bare(name, top: int = 3, *rest):  # type: ignore[no-untyped-def]
        return name

    def tensor(weights: torch.Tensor) -> None:
        """
        Look.

        Args:
            weights: At what.
        """

    def own(inspector: WeightInspector) -> None:
        """
        Look.

        Args:
            inspector: With what.
        """

    async def later() -> None:
        """
        Wait.
        """

    for function, complaint in (
        (bare, r"bare \(.*test_tools.py:\d+\) cannot .* no docstring, argument 'name' has no type"),
        (bare, r"arguments are passed by name, which '\*rest' does not allow"),
        (tensor, "argument 'weights' has a type that JSON lacks"),
        (own, "tool own .* custom class"),
        (later, "is asynchronous"),
        (functools.partial(search, "a"), "is not a function: .* write a function that calls it"),
        (len, "is not a function"),
        (lambda: 3, "has no name that a model can write"),
        (3, "is not a function"),
    ):
        with pytest.raises(tt.ToolError, match=complaint):
            tt.ToolInterface([function])  # type: ignore[list-item]
    with pytest.raises(tt.ToolError, match="two tools are called 'search': rename one"):
        tt.ToolInterface([search, search])
    with pytest.raises(tt.ToolError, match="as a list"):
        tt.ToolInterface(search)  # type: ignore[arg-type]


def test_methods_are_tools_and_share_the_limits_of_their_class() -> None:
    class Scales:
        def __init__(self, weight: int) -> None:
            self._weight = weight

        @tt.tool(output_chars_max=200)
        def weigh(self, times: int) -> str:
            """
            Weigh it.

            Args:
                times: How often.
            """
            return times * str(self._weight)

    result = tt.ToolInterface([Scales(7).weigh]).call("weigh", {"times": 1000})

    assert result.payload == b'"' + 1000 * b"7" + b'"'
    assert len(result.content) <= 200
    with pytest.raises(tt.ToolError, match="declare a method in its class"):
        tt.tool(Scales(7).weigh)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (ZeroDivisionError("of all things"), "ZeroDivisionError('of all things')"),
        (SystemExit("enough"), "SystemExit('enough')"),
        (KeyboardInterrupt(), "KeyboardInterrupt()"),
        (RecursionError("too deep"), "RecursionError"),
        (tt.ToolError("half: \ud83d"), "half: \\ud83d"),
        ({1, 2}, "not JSON serializable"),
        (float("nan"), "not JSON compliant"),
        ("\ud83d", "UnicodeEncodeError"),
        (tt.ToolView(view=1, payload=1, tensors=({"shape": {1}},)), "not JSON serializable"),
    ],
    ids=repr,
)
def test_any_exception_or_invalid_value_of_a_tool_is_a_result(value: Any, complaint: str) -> None:
    result = tt.ToolInterface([failing(value)]).call("look", {})

    assert complaint in (result.error or "")
    assert json.loads(result.content) == json.loads(result.payload) == {"error": result.error}
    assert result.tensors == ()


def test_an_exception_whose_repr_fails_is_reported_by_its_type() -> None:
    class Mute(Exception):
        def __repr__(self) -> str:
            raise ValueError("no")

    assert tt.ToolInterface([failing(Mute())]).call("look", {}).error == "Mute"


def test_a_tool_that_exceeds_its_time_limit_is_abandoned() -> None:
    released = threading.Event()

    @tt.tool(seconds_max=0.05)
    def wait(kind: str = "long") -> str:
        """
        Wait.

        Args:
            kind: How.
        """
        released.wait()
        return "late"

    tools = tt.ToolInterface([wait])
    try:
        assert tools.call("wait", {}).error == "no answer within 0.05 s"
        assert tools.call("wait", {}, seconds_max=0.01).error == "no answer within 0.01 s"
    finally:
        released.set()
    assert tools.call("wait", {}, seconds_max=60.0).content == '"late"'


def test_tools_run_without_gradients_and_with_the_callers_context() -> None:
    said = contextvars.ContextVar("said", default="nothing")

    def look() -> list[Any]:
        """
        Look.
        """
        return [torch.is_grad_enabled(), said.get(), threading.current_thread().daemon]

    said.set("something")
    with torch.inference_mode():
        result = tt.ToolInterface([look]).call("look", {})

    assert json.loads(result.content) == [False, "something", True]


@pytest.mark.parametrize("limit", [200, 1000, 24_000])
def test_a_long_view_is_cut_between_values_and_says_how_much(limit: int) -> None:
    numbers = list(range(20_000))
    tools = tt.ToolInterface([failing(numbers)], output_chars_max=limit)
    result = tools.call("look", {})
    kept, note = result.content.split(" … [cut here: ")

    assert len(result.content) <= limit
    assert result.cut_chars == len(json.dumps(numbers)) - len(kept)
    assert note.startswith(f"{result.cut_chars:,} of {len(json.dumps(numbers)):,} characters")
    assert json.loads(kept + "]") == numbers[: kept.count(",") + 1]
    assert json.loads(result.payload) == numbers


def test_a_view_within_the_limit_is_not_cut_and_one_long_word_is() -> None:
    assert tt.ToolInterface([failing("x" * 23_998)]).call("look", {}).cut_chars == 0
    result = tt.ToolInterface([failing("x" * 50_000)]).call("look", {})

    assert len(result.content) <= 24_000
    assert result.content.count("x") > 23_000
    loud = tt.ToolInterface([failing(ValueError("y" * 50_000))]).call("look", {})
    assert len(loud.content) <= 24_000


@pytest.mark.parametrize("limits", [{"seconds_max": 0}, {"seconds_max": float("nan")},
                                    {"seconds_max": 1e30}, {"output_chars_max": 10}])  # fmt: skip
def test_limits_out_of_range_are_rejected(limits: dict[str, Any]) -> None:
    with pytest.raises(tt.ToolError, match="must be"):
        tt.ToolInterface([search], **limits)
    with pytest.raises(tt.ToolError, match="must be"):
        tt.tool(**limits)


def test_an_unknown_tool_is_answered_with_the_nearest() -> None:
    tools = tt.ToolInterface([search])

    assert tools.names == ("search",)
    assert tools.call("serch", {}).error == (
        "there is no tool 'serch' (did you mean 'search'?); there are search"
    )
    assert tt.ToolInterface([]).call("x", {}).error == "there is no tool 'x'; there are no tools"
