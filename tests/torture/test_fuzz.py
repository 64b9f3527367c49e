"""Every reader returns a value or one of tokentape's errors, whatever it is given.

`make torture` draws thousands of examples; see `tests/torture/fuzz.py`.
"""

import pytest

from tests.torture.fuzz import LAWS, Examples, run_law

COUNTS = {"tapes": 25, "json_lines": 40, "calls_of_tools": 60}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return Examples.make(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("name", LAWS)
def test_a_reader_returns_a_value_or_refuses_what_it_is_given(
    name: str, examples: Examples
) -> None:
    count = COUNTS.get(name, 50)

    assert run_law(LAWS[name], examples, count, seed_=16)[0] > 0
