"""Old versions of events are upcast to today's, step by step."""

from pathlib import Path

import pytest

from tokentape.recorder.events import EVENT_CLASSES
from tokentape.recorder.upcasters import UPCASTERS, Fields, check_chain, upcast


def add(name: str) -> "object":
    def step(fields: Fields) -> Fields:
        return fields | {name: len(fields)}

    return step


STEPS = {("A", 1): add("second"), ("A", 2): add("third")}


def test_each_step_gets_the_result_of_the_one_before() -> None:
    assert upcast("A", 1, {"first": 0}, STEPS) == {"first": 0, "second": 1, "third": 2}
    assert upcast("A", 2, {"first": 0}, STEPS) == {"first": 0, "third": 1}
    assert upcast("A", 3, {"first": 0}, STEPS) == {"first": 0}
    assert upcast("B", 1, {"first": 0}, STEPS) == {"first": 0}


def test_a_complete_chain_is_accepted() -> None:
    check_chain({"A": 3, "B": 1}, STEPS)


@pytest.mark.parametrize(
    ("versions", "complaint"),
    [
        ({"A": 4}, "no upcaster leads from A version 3 to 4"),
        ({"A": 2}, "an upcaster of A version 2 leads nowhere"),
        ({"B": 1}, "an upcaster of A version 1 leads nowhere"),
        ({"A": 3, "B": 2}, "no upcaster leads from B version 1 to 2"),
    ],
)
def test_a_chain_with_a_missing_or_useless_step_is_refused(
    versions: dict[str, int], complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        check_chain(versions, STEPS)


def test_the_chain_is_checked_when_the_codec_is_imported() -> None:
    """Otherwise a missing step would show only when an old recording is read."""
    import tokentape.recorder.codec

    source = Path(tokentape.recorder.codec.__file__).read_text(encoding="utf-8")

    assert "\ncheck_chain(" in source
    check_chain({kind: cls.version for kind, cls in EVENT_CLASSES.items()}, UPCASTERS)
