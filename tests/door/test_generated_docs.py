"""The pages and diagrams that are made from the code are those of today's code."""

from pathlib import Path

import pytest

import tokentape as tt
from docs.generate import markdown
from docs.generate.__main__ import DOCS, GENERATED
from tokentape.recorder.events import EVENT_CLASSES


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_what_the_code_gives(name: str) -> None:
    committed = (DOCS / name).read_text(encoding="utf-8")

    assert GENERATED[name]() == committed, "write it again: python -m docs.generate"


def test_the_references_have_every_public_name_and_every_event() -> None:
    api = (DOCS / "python-api.md").read_text(encoding="utf-8")
    events = (DOCS / "event-catalogue.md").read_text(encoding="utf-8")

    assert {
        name for name in tt.__all__ if f"### {name}\n" not in api and f"`{name}`" not in api
    } == {"__version__"} & set(tt.__all__)
    assert {kind for kind in EVENT_CLASSES if f"### {kind}\n" not in events} == set()


def test_a_signature_is_written_as_code_writes_it() -> None:
    def f(a: int | None, *rest: str, b: Path = Path(), c: object = object()) -> list[float]: ...

    def g(a, /, b, *, c=1): ...  # type: ignore[no-untyped-def]

    assert markdown.signature("f", f) == (
        "```python\n"
        "f(a: int | None, *rest: str, b: Path = PosixPath('.'), c: object = ...) -> list[float]\n"
        "```"
    )
    assert markdown.signature("g", g) == "```python\ng(a, /, b, *, c=1)\n```"


def test_text_of_the_code_is_no_markup() -> None:
    assert markdown.prose("a <b> *c* `<d>*`") == r"a \<b> \*c\* `<d>*`"
