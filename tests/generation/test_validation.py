"""Plain values are fitted to type hints, or the error has a rule and the path to the value."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from tokentape.generation.tools.validation import InvalidValue, JsonValue, Text, at_least, fit


@dataclass(frozen=True, kw_only=True)
class Point:
    x: Annotated[int, at_least(0)]
    label: Text = "origin"


@dataclass(frozen=True, kw_only=True)
class Path:
    points: tuple[Point, ...]
    end: Point | None = None
    extra: JsonValue = None

    @staticmethod
    def expand(value: object) -> object:
        return {"points": value} if isinstance(value, list) else value

    def __post_init__(self) -> None:
        if not self.points:
            raise InvalidValue("is empty", "points")


@pytest.mark.parametrize(
    ("value", "hint", "strict", "cast"),
    [
        ("7", int, None, 7),
        (7.0, int, None, 7),
        ("true", bool, None, True),
        ("[1, 2]", list[int], None, [1, 2]),
        ("null", int | None, None, None),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3), (1, 2, 3)),
        ("7", int | str, "7", "7"),
        (["1"], list[int] | list[str], ["1"], ["1"]),
        ("1", Literal[1, "1"], "1", "1"),
    ],
)
def test_strings_are_cast_only_if_asked(value: Any, hint: Any, strict: Any, cast: Any) -> None:
    assert fit(value, hint, cast=True) == cast
    if strict is None:
        with pytest.raises(InvalidValue):
            fit(value, hint, cast=False)
    else:
        assert fit(value, hint, cast=False) == strict


def test_a_dataclass_is_built_from_its_fields_or_from_its_short_form() -> None:
    whole = {"points": [{"x": 1}, {"x": 2, "label": "b"}], "end": {"x": 3}, "extra": (1, 2)}

    assert fit(whole, Path, cast=False) == Path(
        points=(Point(x=1), Point(x=2, label="b")), end=Point(x=3), extra=[1, 2]
    )
    assert fit([{"x": 1}], Path, cast=False) == Path(points=(Point(x=1),))


@pytest.mark.parametrize(
    ("value", "path", "rule"),
    [
        (3, (), "must be an object with the fields points, end, extra, not 3"),
        ({}, ("points",), "is missing"),
        ({"point": []}, ("point",), "is not a field (did you mean 'points'?); the fields are"),
        ([], ("points",), "is empty"),
        ([{"x": 1}, {"x": -1}], ("points", 1, "x"), "must be at least 0 and below 2**63, not -1"),
        ([{"x": True}], ("points", 0, "x"), "must be an integer, not true"),
        ([{"x": 1, "label": " "}], ("points", 0, "label"), "is empty"),
        ({"points": [{"x": 1}], "end": {"x": "1"}}, ("end", "x"), 'must be an integer, not "1"'),
        ({"points": [{"x": 1}], "end": 3}, ("end",), "fields x, label or null, not 3"),
        ({"points": [{"x": 1}], "extra": {1, 2}}, ("extra",), "must be JSON"),
    ],
)
def test_an_error_has_the_path_and_the_rule(
    value: object, path: tuple[str | int, ...], rule: str
) -> None:
    with pytest.raises(InvalidValue) as raised:
        fit(value, Path, cast=False)

    assert raised.value.path == path
    assert rule in raised.value.rule
