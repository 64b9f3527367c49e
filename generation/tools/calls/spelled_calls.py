"""Read and write calls by a spelling."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokentape.generation.tools.arguments import fit_text
from tokentape.generation.tools.calls.json_text import MalformedText
from tokentape.generation.tools.calls.literals import (
    ID,
    compiled,
    last_tag,
    may_begin,
    pattern_after_value,
    pattern_before_value,
    pattern_of,
)
from tokentape.generation.tools.calls.notation import (
    IncompleteText,
    read_value,
    write_value,
)
from tokentape.generation.tools.calls.python_literal import read_literal
from tokentape.generation.tools.calls.spelling import CallSpelling, Syntax

Schemas = Mapping[str, Mapping[str, Any]]
"""The properties of each tool's arguments, by the tool's name."""

_NAME = re.compile(r"[\w./-]{1,200}")
_CDATA = re.compile(r"<!\[CDATA\[(.*)\]\]>", re.DOTALL)
_BLANKS = re.compile(r"\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCall:
    """A call that was read, before its tool and arguments are checked."""

    text: str
    name: Any
    """None for an object, which has the name itself."""
    arguments: Any
    """The arguments; for an object, the object or an array of several."""


class SpelledCalls:
    """Reads the calls of a text by a spelling, and writes calls.

    If a text has `ended`, the literals that close a call may be missing at its end.
    """

    def __init__(self, spelling: CallSpelling, schemas: Schemas) -> None:
        self._spelling = spelling
        self._schemas = schemas
        self._section_open = compiled(pattern_of(spelling.section_open))
        self._open = compiled(pattern_of(spelling.open))
        self._between = spelling.between.strip()
        self._pairs = _PairReader(spelling) if spelling.syntax is Syntax.PAIRS else None

    def read(self, text: str, at: int, *, ended: bool, calls: list[WrittenCall]) -> int:
        """Append the calls of the section or the single call at `at`; return the index after it.

        Raise IncompleteText or MalformedText; the calls before the fault are appended then.
        """
        spelling = self._spelling
        section = self._section_open.match(text, at) if spelling.section_open.strip() else None
        if section is not None:
            at = section.end()
        while True:
            call, at = self._call(text, at, ended=ended)
            calls.append(call)
            if section is None:
                return at
            end = self._section_end(text, at, ended=ended)
            if end is not None:
                return end
            at = self._next_call(text, at)

    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return a call as the spelling writes it."""
        spelling = self._spelling
        call = spelling.open + self._body(name, arguments) + spelling.close
        written = spelling.section_open + call + spelling.section_close
        return written.replace(ID, "call00001").strip()

    def _body(self, name: str, arguments: Mapping[str, Any]) -> str:
        spelling = self._spelling
        if spelling.syntax is Syntax.OBJECT:
            value = _object(spelling, name, dict(arguments))
            return self._value([value] if spelling.array else value)
        if spelling.syntax is Syntax.NAMED_OBJECT:
            return name + spelling.name_close + self._value(dict(arguments))
        pairs = (self._pair(key, value) for key, value in arguments.items())
        return name + spelling.name_close + spelling.argument_between.join(pairs)

    def _pair(self, key: str, value: Any) -> str:
        spelling = self._spelling
        if isinstance(value, str) and spelling.text_open is not None:
            written = spelling.text_open + value + spelling.text_close
        else:
            written = spelling.value_open + self._value(value) + spelling.value_close
        return spelling.argument_open + key + written

    def _value(self, value: Any) -> str:
        return write_value(value, self._spelling.notation, self._spelling.quote)

    def _call(self, text: str, at: int, *, ended: bool) -> tuple[WrittenCall, int]:
        start = at
        at = _expect(self._open, self._spelling.open, text, at)
        if self._spelling.syntax is Syntax.OBJECT:
            value, at = self._read_value(text, at)
            name, arguments = None, value
        else:
            found = _NAME.match(text, at)
            if found is None:
                raise IncompleteText if at == len(text) else MalformedText("it names no tool")
            name, at = found.group(), found.end()
            arguments, at = self._arguments(name, text, at, ended=ended)
        at = _expect_close(self._spelling.close, text, at, ended=ended)
        return WrittenCall(text=text[start:at].strip(), name=name, arguments=arguments), at

    def _arguments(self, name: str, text: str, at: int, *, ended: bool) -> tuple[Any, int]:
        spelling = self._spelling
        if self._pairs is not None:
            return self._pairs.read(text, at, schema=self._schemas.get(name, {}), ended=ended)
        at = _after_name(spelling.name_close, text, at)
        if at < len(text) and spelling.close.strip() and _closes(spelling.close, text, at):
            return {}, at
        return self._read_value(text, at)

    def _read_value(self, text: str, at: int) -> tuple[Any, int]:
        at = _skip(text, at)
        return read_value(text, at, self._spelling.notation, self._spelling.quote)

    def _section_end(self, text: str, at: int, *, ended: bool) -> int | None:
        """Return the index after the section; None if another call follows."""
        literal = self._spelling.section_close
        if not literal.strip():
            return at
        closed = compiled(pattern_of(literal)).match(text, at)
        if closed is not None:
            return closed.end() - _blanks_at_end(closed.group())
        rest = text[at:].strip()
        if may_begin(rest, literal):
            if ended:
                return len(text)
            raise IncompleteText
        return None

    def _next_call(self, text: str, at: int) -> int:
        at = _skip(text, at)
        if self._between and text.startswith(self._between, at):
            at = _skip(text, at + len(self._between))
        return at


class _PairReader:
    """Reads the names and values of a call's arguments."""

    def __init__(self, spelling: CallSpelling) -> None:
        self._spelling = spelling
        self._name_close = compiled(pattern_of(spelling.name_close))
        self._open = compiled(pattern_of(spelling.argument_open))
        self._close = compiled(pattern_of(spelling.close))
        texts = [] if spelling.text_open is None else [(spelling.text_open, "text")]
        values = [(spelling.value_open, "value")]
        alternatives = "|".join(
            f"(?P<{kind}>{pattern_before_value(literal)})" for literal, kind in texts + values
        )
        if spelling.untyped:
            alternatives = f"(?P<text>{pattern_before_value(spelling.value_open)})(?P<value>(?!))?"
        self._key = compiled(rf"\s*(?P<key>\S[^\n]{{0,199}}?)(?:{alternatives})")
        self._text_end = compiled(
            rf"{pattern_after_value(spelling.text_close)}(?={self._continuation()})"
        )
        self._value_close = compiled(pattern_of(spelling.value_close))

    def _continuation(self) -> str:
        """Return a pattern for what follows a value: the end of the arguments or another one."""
        spelling = self._spelling
        closed = pattern_of(spelling.close) if spelling.close.strip() else r"(?!)"
        if spelling.section_close.strip():
            another = rf"{pattern_of(spelling.between)}{pattern_of(spelling.open)}\w"
            closed = rf"{closed}(?:\Z|{pattern_of(spelling.section_close)}|{another})"
        name = r"\S[^\n]{0,199}?" if spelling.argument_open.strip() else r"[\w.-]{1,200}"
        values = {pattern_of(spelling.value_open), pattern_of(spelling.text_open or "")}
        pair = f"{pattern_of(spelling.argument_open)}{name}(?:{'|'.join(sorted(values))})"
        return rf"\s*\Z|{closed}|{pattern_of(spelling.argument_between)}{pair}"

    def read(
        self, text: str, at: int, *, schema: Mapping[str, Any], ended: bool
    ) -> tuple[dict[str, Any], int]:
        """Return the arguments and the index of the text that closes the call."""
        arguments: dict[str, Any] = {}
        named = self._name_close.match(text, at)
        if named is None and self._ends(text, at, ended=ended):
            return arguments, at
        at = _after_name(self._spelling.name_close, text, at)
        while not self._ends(text, at, ended=ended):
            if arguments:
                at = _skip_literal(self._spelling.argument_between, text, at)
            at = _expect(self._open, self._spelling.argument_open, text, at)
            name, value, at = self._argument(text, at, schema, ended=ended)
            if name in arguments:
                raise MalformedText(f"{name!r} is given twice")
            arguments[name] = value
        return arguments, at

    def _ends(self, text: str, at: int, *, ended: bool) -> bool:
        """Return whether the arguments end here: a part of the closing text shows it, if any."""
        rest, close = text[at:].strip(), self._spelling.close.strip()
        if not rest:
            if ended and not close:
                return True
            raise IncompleteText
        if not close:
            return False
        if self._close.match(text, at) is not None:
            return True
        another = may_begin(rest, self._spelling.argument_open)
        return ended and may_begin(rest, close) and not another

    def _argument(
        self, text: str, at: int, schema: Mapping[str, Any], *, ended: bool
    ) -> tuple[str, Any, int]:
        key = self._key.match(text, at)
        if key is None:
            if self._spelling.close.strip() and self._close.search(text, at) is not None:
                raise MalformedText("an argument has no name or no value")
            raise IncompleteText
        if key["value"] is None:
            end = self._text_end.search(text, key.end())
            if end is None or (not ended and end.end() == len(text)):
                raise IncompleteText
            value = self._text(text[key.end() : end.start()], key["key"], schema)
            return key["key"], value, end.end()
        start = _skip(text, key.end())
        value, at = read_value(text, start, self._spelling.notation, self._spelling.quote)
        return key["key"], value, _expect(self._value_close, self._spelling.value_close, text, at)

    def _text(self, written: str, name: str, schema: Mapping[str, Any]) -> Any:
        data = _CDATA.fullmatch(written)
        if data is not None:
            return data[1]
        if not self._spelling.untyped:
            return written
        declared = schema.get(name, {"type": "string"})
        value = fit_text(written, declared)
        if isinstance(value, str) and written[:1] in "[{":
            # Some templates write lists and objects as Python does.
            try:
                return fit_text(json.dumps(read_literal(written)), declared)
            except (MalformedText, TypeError, ValueError):
                return value
        return value


def _object(spelling: CallSpelling, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the object of a call."""
    if not spelling.name_path:
        return {name: arguments}
    call: dict[str, Any] = {}
    for path, value in ((spelling.name_path, name), (spelling.arguments_path, arguments)):
        inner = call
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    return call


def at_path(value: Any, path: tuple[str, ...]) -> Any:
    """Return the value that the keys of a path lead to; None without one."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _expect(pattern: re.Pattern[str], literal: str, text: str, at: int) -> int:
    found = pattern.match(text, at)
    if found is not None:
        return found.end()
    if may_begin(text[at:], literal):
        raise IncompleteText
    raise MalformedText(f"{literal.strip()!r} was expected at {text[at:].strip()[:20]!r}")


def _expect_close(literal: str, text: str, at: int, *, ended: bool) -> int:
    """Return the index after a closing literal, without the blanks that follow it."""
    if not literal.strip():
        return at
    found = compiled(pattern_of(literal)).match(text, at)
    if found is not None:
        return found.end() - _blanks_at_end(found.group())
    if ended and may_begin(text[at:], literal):
        return len(text)
    return _expect(compiled(pattern_of(literal)), literal, text, at)


def _closes(literal: str, text: str, at: int) -> bool:
    return compiled(pattern_of(literal)).match(text, at) is not None


def _after_name(literal: str, text: str, at: int) -> int:
    """Return the index after the literal that follows a name.

    Models put other words than the template before the tag that ends such a literal.
    """
    tag = last_tag(literal)
    if tag and not compiled(pattern_of(literal)).match(text, at):
        found = compiled(rf"[^\n{{}}]{{0,100}}?{re.escape(tag)}\s*").match(text, at)
        if found is not None:
            return found.end()
    return _expect(compiled(pattern_of(literal)), literal, text, at)


def _skip(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return at if found is None else found.end()


def _skip_literal(literal: str, text: str, at: int) -> int:
    at = _skip(text, at)
    if text.startswith(literal.strip(), at):
        return at + len(literal.strip())
    raise MalformedText(f"{literal.strip()!r} was expected at {text[at:][:20]!r}")


def _blanks_at_end(text: str) -> int:
    return len(text) - len(text.rstrip())
