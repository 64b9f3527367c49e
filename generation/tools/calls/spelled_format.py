"""The call format of a spelling, e.g. of one that was learned from a chat template."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokentape.generation.tools.calls.call_format import CallFormat, OpenCall
from tokentape.generation.tools.calls.json_text import JsonEndFinder, MalformedText
from tokentape.generation.tools.calls.literals import is_marker, last_tag, pattern_of
from tokentape.generation.tools.calls.notation import IncompleteText, UnterminatedText
from tokentape.generation.tools.calls.parsed_call import (
    ParsedCall,
    call_of_object,
    checked_call,
    malformed_call,
)
from tokentape.generation.tools.calls.spelled_calls import SpelledCalls, WrittenCall, at_path
from tokentape.generation.tools.calls.spelling import CallSpelling, Syntax
from tokentape.generation.tools.interface import ToolInterface

_NOT_QUOTED = "(?<!`)"


class SpelledFormat(CallFormat):
    """Calls as a spelling says; those in a code block are ignored."""

    rule = "write it as you were trained to"
    skips_code_blocks = True

    def __init__(self, tools: ToolInterface, spelling: CallSpelling) -> None:
        super().__init__(tools)
        self.spelling = spelling
        schemas = {
            schema["name"]: schema["parameters"]["properties"]
            for schema in tools.get_available_tools()
        }
        self._calls = SpelledCalls(spelling, schemas)
        self._is_marked = is_marker(spelling.section_open + spelling.open)
        self.opening = _opening(spelling, tools.names)
        self.endings = _endings(spelling)
        self.separators = spelling.between.strip()
        if spelling.thinking_open.strip() and spelling.thinking_close.strip():
            self.thinking = {spelling.thinking_open.strip(): spelling.thinking_close.strip()}

    def open_call(self, opening: re.Match[str]) -> OpenCall:
        body = opening.start() if opening.group().endswith(":") else opening.end()
        return _SpelledEnd(self, opening.start(), body)

    def find_end(self, text: str, start: int, body: int) -> int | None:
        """Return the index after the call or section at `start`; None if it is incomplete.

        `body` is the index after its opening.
        """
        try:
            return self._calls.read(text, start, ended=False, calls=[])
        except UnterminatedText:
            return self._unterminated_end(text, start)
        except IncompleteText:
            return None
        except MalformedText:
            return self._malformed_end(text, body)

    def parse(self, text: str, *, closed: bool) -> tuple[ParsedCall, ...]:
        written: list[WrittenCall] = []
        error = ""
        try:
            self._calls.read(text, 0, ended=not closed, calls=written)
        except IncompleteText:
            error = "the reply ended before the call did"
        except MalformedText as fault:
            error = f"the call cannot be read: {fault}"
        calls = [call for each in written for call in self._parsed(each)]
        if error and (self._is_marked or any(name in text for name in self._tools.names)):
            expected = self.example("NAME", {"ARGUMENT": "VALUE"})
            calls.append(malformed_call(text, f"{error}; write it as {_on_one_line(expected)}"))
        return tuple(calls)

    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        return self._calls.example(name, arguments)

    def _parsed(self, call: WrittenCall) -> Iterator[ParsedCall]:
        if self.spelling.syntax is not Syntax.OBJECT:
            yield checked_call(call.name, call.arguments, call.text, self._tools)
            return
        values = call.arguments if isinstance(call.arguments, list) else [call.arguments]
        if not values:
            yield malformed_call(call.text, "the array of calls is empty")
        for value in values:
            if self._is_marked or self._has_call(value):
                yield self._call_of(value, call.text)

    def _has_call(self, value: Any) -> bool:
        """Return whether an object, which no tag announces, has a name and arguments."""
        spelling = self.spelling
        if not spelling.name_path:
            return isinstance(value, dict) and bool(value.keys() & set(self._tools.names))
        paths = (spelling.name_path, spelling.arguments_path)
        return all(at_path(value, path) is not None for path in paths)

    def _call_of(self, value: Any, text: str) -> ParsedCall:
        spelling = self.spelling
        if not spelling.name_path and isinstance(value, dict) and len(value) == 1:
            ((name, arguments),) = value.items()
            return checked_call(name, arguments, text, self._tools)
        name = at_path(value, spelling.name_path) if spelling.name_path else None
        if not isinstance(name, str):
            return call_of_object(value, text, self._tools)
        arguments = at_path(value, spelling.arguments_path)
        return checked_call(name, {} if arguments is None else arguments, text, self._tools)

    def _unterminated_end(self, text: str, start: int) -> int | None:
        """Return the end of a call with an unterminated string: JSON has no line break in one."""
        closes = [re.escape(each) for each in self.endings if is_marker(each)]
        found = re.compile(f"(?:{'|'.join(closes)})(?=\n)").search(text, start) if closes else None
        return found.end() if found else None

    def _malformed_end(self, text: str, start: int) -> int | None:
        """Return the end of a malformed call: its closing literal, or the end of its brackets."""
        for literal in (self.spelling.section_close, self.spelling.close):
            if is_marker(literal):
                found = re.compile(pattern_of(literal)).search(text, start)
                return len(text[: found.end()].rstrip()) if found else None
        brackets = r"[{\[]" if self.spelling.syntax is Syntax.OBJECT else r"[{(]"
        bracket = re.compile(brackets).search(text, start)
        if bracket is None or bracket.group() == "(":
            end = text.find("\n", start)
            return None if end < 0 else end
        return JsonEndFinder(bracket.start()).find(text)


class _SpelledEnd:
    """A call whose opening has been read."""

    def __init__(self, call_format: SpelledFormat, start: int, body: int) -> None:
        self._format = call_format
        self._start = start
        self._body = body

    def find_end(self, text: str) -> int | None:
        return self._format.find_end(text, self._start, self._body)


def _opening(spelling: CallSpelling, names: tuple[str, ...]) -> str:
    """Return a pattern of the beginning of a call.

    Without a tag a call begins a line, or its name is followed by a tag.
    """
    section, single = _bare(spelling.section_open), _bare(spelling.open)
    if is_marker(spelling.open):
        return rf"{_NOT_QUOTED}(?:{section}\s*)?{single}" if section else _NOT_QUOTED + single
    if is_marker(spelling.section_open):
        return _NOT_QUOTED + section + (rf"\s*{single}" if single else "")
    begin, blanks = f"{section}{single}", r"\s{0,40}"
    tag = last_tag(spelling.name_close)
    if spelling.syntax is Syntax.OBJECT:
        keys = (
            [*spelling.name_path[:1], *spelling.arguments_path[:1]] if spelling.name_path else names
        )
        named = "|".join(map(re.escape, keys))
        brackets = rf"(?:\[{blanks})?\{{{blanks}"
        return rf"{_NOT_QUOTED}{begin}{blanks}{brackets}[\"']?(?:{named})[\"']?{blanks}:"
    if tag:
        return (
            rf"{_NOT_QUOTED}{begin}{blanks}(?=[\w./-]{{1,100}}[^\n{{}}]{{0,100}}?{re.escape(tag)})"
        )
    named = "|".join(map(re.escape, names)) or r"(?!)"
    return rf"^[ \t]{{0,8}}{begin}{blanks}(?=(?:{named}){pattern_of(spelling.name_close)})"


def _bare(literal: str) -> str:
    """Return a pattern of a literal without the blanks around it."""
    return pattern_of(literal).removeprefix(r"\s*").removesuffix(r"\s*")


def _endings(spelling: CallSpelling) -> tuple[str, ...]:
    in_section = bool(spelling.section_close.strip())
    literals = [spelling.section_close if in_section else spelling.close]
    if in_section and is_marker(spelling.open):
        literals.append(spelling.close)
    ends = [re.search(r"[^\s\d]+\s*\Z", each) for each in literals]
    found = tuple(end.group().strip() for end in ends if end is not None)
    if found or spelling.syntax is Syntax.PAIRS:
        return found
    return ("}", "]")


def _on_one_line(text: str) -> str:
    return text.replace("\n", "\\n")
