"""Find the spellings that the calls of a chat template may have."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokentape.generation.tools.calls.json_text import MalformedText
from tokentape.generation.tools.calls.literals import common_prefix, common_suffix
from tokentape.generation.tools.calls.notation import IncompleteText, Notation, read_value
from tokentape.generation.tools.calls.pair_learning import pair_literals
from tokentape.generation.tools.calls.spelling import CallSpelling, Syntax
from tokentape.generation.tools.calls.template_calls import (
    KEYS,
    NAMES,
    TEXTS,
    Arguments,
    Call,
    TemplateReplies,
)

ONE_TEXT: Arguments = {KEYS[0]: TEXTS[0]}
_SAID = "saidzq"
Range = tuple[int, int]
Locate = Callable[[str, int, Call], Range | None]
"""Returns the range of a call's content in a text from an index on, None without one."""


def spellings(replies: TemplateReplies, notations: Sequence[Notation]) -> Iterator[CallSpelling]:
    """Yield the spellings in these notations that a template's calls may have."""
    written = replies.write([(NAMES[0], ONE_TEXT)])
    if written is None or NAMES[0] not in written:
        return
    thinking = _thinking(replies)
    for notation in notations:
        for found in (_object, _named_object, _pairs):
            spelling = found(replies, written, notation)
            if spelling is not None:
                yield replace(spelling, **thinking)


def _object(replies: TemplateReplies, written: str, notation: Notation) -> CallSpelling | None:
    """Return a spelling of objects that have name and arguments."""
    if notation is Notation.BARE:
        return None

    def locate(text: str, at: int, call: Call) -> Range | None:
        found = _value_with(text, at, call, notation)
        return found and found[:2]

    found = _value_with(written, 0, (NAMES[0], ONE_TEXT), notation)
    if found is None:
        return None
    value = found[2]
    paths = _paths(value[0] if isinstance(value, list) else value)
    if paths is None:
        return None
    return CallSpelling(
        syntax=Syntax.OBJECT,
        notation=notation,
        name_path=paths[0],
        arguments_path=paths[1],
        array=isinstance(value, list),
        **_borders(replies, written, locate),
    )


def _named_object(
    replies: TemplateReplies, written: str, notation: Notation
) -> CallSpelling | None:
    """Return a spelling of a name and an object of arguments."""
    quote = _bare_quote(written) if notation is Notation.BARE else '"'
    if not quote:
        return None

    def locate(text: str, at: int, call: Call) -> Range | None:
        start = text.find(call[0], at)
        opened = text.find("{", start)
        if start < 0 or opened < 0:
            return None
        value, end = _read(text, opened, notation, quote)
        return (start, end) if value == call[1] else None

    found = locate(written, 0, (NAMES[0], ONE_TEXT))
    if found is None:
        return None
    after_name = found[0] + len(NAMES[0])
    return CallSpelling(
        syntax=Syntax.NAMED_OBJECT,
        notation=notation,
        quote=quote,
        name_close=written[after_name : written.index("{", after_name)],
        **_borders(replies, written, locate),
    )


def _pairs(replies: TemplateReplies, written: str, notation: Notation) -> CallSpelling | None:
    """Return a spelling of a name and pairs of an argument's name and value."""
    literals = pair_literals(replies, notation)
    if literals is None:
        return None
    close = literals.get("text_close") or literals["value_close"]
    last = close if literals.get("text_open") is not None else literals["quote_close"]

    def locate(text: str, at: int, call: Call) -> Range | None:
        start = text.find(call[0], at)
        key = text.find(KEYS[0], start)
        value = text.find(TEXTS[0], key)
        if min(start, key, value) < 0:
            return None
        return start, value + len(TEXTS[0]) + len(last)

    fields = {name: text for name, text in literals.items() if name != "quote_close"}
    return CallSpelling(
        syntax=Syntax.PAIRS, notation=notation, **fields, **_borders(replies, written, locate)
    )


def _borders(replies: TemplateReplies, written: str, locate: Locate) -> dict[str, Any]:
    """Return the texts before, between and after calls; `written` has one call."""
    found = locate(written, 0, (NAMES[0], ONE_TEXT))
    assert found is not None
    opened, closed = written[: found[0]], written[found[1] :]
    opened = _without_reply_opening(replies, opened, locate).lstrip()
    calls: list[Call] = [(name, ONE_TEXT) for name in NAMES]
    two = replies.write(calls)
    first = None if two is None else locate(two, 0, calls[0])
    second = None if two is None or first is None else locate(two, first[1], calls[1])
    if two is None or first is None or second is None:
        return {"open": opened, "close": closed}
    gap = two[first[1] : second[0]]
    open_ = common_suffix(opened, gap)
    rest = gap.removesuffix(open_)
    close = common_prefix(rest, closed)
    section_open = opened.removesuffix(open_)
    return {
        "section_open": section_open,
        "section_close": closed[len(close) :] if section_open.strip() else "",
        "open": open_,
        "close": close,
        "between": rest[len(close) :],
    }


def _without_reply_opening(replies: TemplateReplies, opened: str, locate: Locate) -> str:
    """Return the text before a call without what templates write only at a reply's beginning."""
    said = replies.write([(NAMES[0], ONE_TEXT)], _SAID)
    found = None if said is None else locate(said, 0, (NAMES[0], ONE_TEXT))
    if said is None or found is None or _SAID not in said[: found[0]]:
        return opened
    return common_suffix(opened, said[: found[0]].rpartition(_SAID)[2]) or opened


def _thinking(replies: TemplateReplies) -> dict[str, Any]:
    opened, rest = replies.thinking()
    tag = re.match(r"<[^<>\s]{1,80}>|\[/?[A-Z_]+\]", rest)
    return {"thinking_open": opened, "thinking_close": tag.group()} if opened and tag else {}


def _value_with(text: str, at: int, call: Call, notation: Notation) -> tuple[int, int, Any] | None:
    """Return the range of the outermost value that has a call's name and arguments, and it."""
    name = text.find(call[0], at)
    for bracket in re.finditer(r"[\[{]", text[:name] if name >= 0 else ""):
        if bracket.start() < at:
            continue
        value, end = _read(text, bracket.start(), notation)
        first = value[0] if isinstance(value, list) and value else value
        if end > name and _paths(first, call) is not None:
            return bracket.start(), end, value
    return None


def _paths(
    value: Any, call: Call = (NAMES[0], ONE_TEXT)
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Return the keys that lead to a call's name and arguments in an object."""
    if not isinstance(value, dict):
        return None
    if value.keys() == {call[0]} and _is_arguments(value[call[0]], call[1]):
        return (), ()
    name = next((path for path, each in _items(value) if each == call[0]), None)
    arguments = next((path for path, each in _items(value) if _is_arguments(each, call[1])), None)
    return None if name is None or arguments is None else (name, arguments)


def _items(value: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, each in value.items():
        yield (key,), each
        if isinstance(each, dict):
            yield from (((key, *path), inner) for path, inner in _items(each))


def _is_arguments(value: Any, arguments: Arguments) -> bool:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return bool(value == arguments)


def _bare_quote(written: str) -> str:
    """Return what encloses a string after the bare name of an argument; "" without one."""
    found = re.search(rf"{KEYS[0]}\s*:\s*(\S{{1,20}}?){TEXTS[0]}", written)
    return found[1] if found else ""


def _read(text: str, at: int, notation: Notation, quote: str = '"') -> tuple[Any, int]:
    """Return the value at an index and its end; None and 0 without one."""
    try:
        return read_value(text, at, notation, quote)
    except (IncompleteText, MalformedText):
        return None, 0
