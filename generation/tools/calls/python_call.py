"""The call format of models that write Python.

The calls are parsed, never evaluated: arguments must be literals.
"""

import ast
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tokentape.generation.tools.calls.call_format import CallFormat, OpenCall
from tokentape.generation.tools.calls.json_text import MalformedText
from tokentape.generation.tools.calls.parsed_call import ParsedCall, checked_call, malformed_call
from tokentape.generation.tools.calls.python_literal import literal_of, parse_python
from tokentape.generation.tools.calls.python_text import PythonEndFinder
from tokentape.generation.tools.interface import ToolInterface

_NAME = r"[^\W\d][\w.]{0,200}"
_FENCE = re.compile(r"[ \t]{0,8}```(?P<language>[\w-]{0,20})[ \t]{0,8}\n")
_FENCE_END = re.compile(r"^[ \t]{0,8}```", re.MULTILINE)
_CODE = ("", "python", "py")
_CALLS = ("tool_call", "tool_calls", "tool_code")
_SIMILARITY_MIN = 0.75


class PythonCall(CallFormat):
    """A list of Python calls, one call on a line of its own, or calls in a fenced block."""

    rule = "write a list of Python calls with literal arguments, on a line of its own"
    opening = (
        rf"^(?:{_FENCE.pattern}|(?:<\|python_start\|>)?[ \t]{{0,8}}\[\s{{0,8}}{_NAME}\(|"
        rf"[ \t]{{0,8}}{_NAME}\()"
    )
    endings = (")", "]", "```")

    def __init__(self, tools: ToolInterface) -> None:
        super().__init__(tools)
        self._parameters = {
            schema["name"]: list(schema["parameters"]["properties"])
            for schema in tools.get_available_tools()
        }

    def open_call(self, opening: re.Match[str]) -> OpenCall | None:
        written = opening.group()
        if _FENCE.match(written):
            return _FencedEnd(opening.end())
        bracket = written.find("[")
        if bracket >= 0:
            names_tool = self._may_name_tool(written[bracket + 1 : -1].strip())
            return _ListEnd(opening.start() + bracket, one_line=not names_tool)
        return _LineEnd(opening.end() - 1) if self._may_name_tool(written[:-1].strip()) else None

    def parse(self, text: str, *, closed: bool) -> tuple[ParsedCall, ...]:
        fence = _FENCE.match(text)
        if fence:
            body = _FENCE_END.split(text[fence.end() :], maxsplit=1)[0]
            language = fence["language"].lower()
            return self._block(body, text, closed, language) if language in _CODE + _CALLS else ()
        source = text.strip().removeprefix("<|python_start|>").strip()
        bracket = re.search(r"[\[(]", source)
        end = PythonEndFinder(bracket.start() if bracket else 0)
        at = end.find(source + "\n")
        if at is not None and not end.broken and source[at:].strip():
            return ()  # text after the call: not a call
        try:
            return tuple(self._calls(parse_python(source).body, source))
        except MalformedText as error:
            name = re.search(_NAME, source)
            if name is None or not self._may_name_tool(name.group()):
                return ()
            return (malformed_call(text.strip(), _complaint(error, closed)),)

    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        return f"[{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]"

    def _may_name_tool(self, name: str) -> bool:
        """Return whether this is a tool's name, or similar to one."""
        names = self._tools.names
        last = name.rsplit(".", 1)[-1]
        return last in names or bool(
            difflib.get_close_matches(last, names, n=1, cutoff=_SIMILARITY_MIN)
        )

    def _block(self, body: str, text: str, closed: bool, language: str) -> tuple[ParsedCall, ...]:
        called = re.findall(rf"(?<![\w.])({_NAME})\(", body)
        if language in _CODE and not any(map(self._may_name_tool, called)):
            return ()
        try:
            return tuple(self._calls(parse_python(body).body, body))
        except MalformedText as error:
            return (malformed_call(text.strip(), _complaint(error, closed)),)

    def _calls(self, statements: list[ast.stmt], source: str) -> Iterator[ParsedCall]:
        nodes: list[ast.expr] = []
        for statement in statements:
            value = statement.value if isinstance(statement, ast.Expr) else None
            nodes += (
                value.elts if isinstance(value, ast.List | ast.Tuple) else [value or _NOT_A_CALL]
            )
        for node in nodes:
            if not isinstance(node, ast.Call):
                raise MalformedText("only calls are run, one by one or in a list")
        if not nodes:
            raise MalformedText("it contains no call")
        for node in nodes:
            assert isinstance(node, ast.Call)
            yield self._call(node, ast.get_source_segment(source, node) or source)

    def _call(self, node: ast.Call, text: str) -> ParsedCall:
        name = ast.unparse(node.func)
        if name not in self._parameters:
            if not self._may_name_tool(name):
                # Raise for arguments that are not literals: then this is ordinary code.
                for value in (*node.args, *(keyword.value for keyword in node.keywords)):
                    literal_of(value)
            return malformed_call(text, self._tools.unknown_tool_message(name), name)
        arguments: dict[str, Any] = {}
        try:
            for key, value in self._named(node, self._parameters[name]):
                if key in arguments:
                    raise MalformedText(f"argument {key!r} is given twice")
                arguments[key] = literal_of(value)
        except MalformedText as error:
            return malformed_call(text, f"the arguments of {name} cannot be read: {error}", name)
        return checked_call(name, arguments, text, self._tools)

    def _named(self, node: ast.Call, parameters: list[str]) -> Iterator[tuple[str, ast.expr]]:
        if len(node.args) > len(parameters):
            raise MalformedText(
                f"there are {len(node.args)} values for {len(parameters)} arguments"
            )
        yield from zip(parameters, node.args, strict=False)
        for keyword in node.keywords:
            if keyword.arg is None:
                raise MalformedText("write each argument as name=value, without **")
            yield keyword.arg, keyword.value


_NOT_A_CALL = ast.Constant(value=None)


def _complaint(error: MalformedText, closed: bool) -> str:
    when = "the call" if closed else "the reply ended before the call did, which"
    return f"{when} cannot be read: {error}; write name(argument=value) with literal values"


class _ListEnd:
    """A list of calls, up to its closing bracket."""

    def __init__(self, start: int, *, one_line: bool) -> None:
        self._start = start
        self._one_line = one_line
        self._end = PythonEndFinder(start)

    def find_end(self, text: str) -> int | None:
        end = self._end.find(text)
        if self._one_line:
            # It names no tool: maybe text in brackets, which may never close.
            line_end = text.find("\n", self._start)
            if line_end >= 0 and (end is None or end > line_end):
                return line_end
        return end


class _LineEnd:
    """One call, up to the end of its line: with other text on the line it is not a call."""

    def __init__(self, start: int) -> None:
        self._python = PythonEndFinder(start)
        self._closed: int | None = None

    def find_end(self, text: str) -> int | None:
        if self._closed is None:
            self._closed = self._python.find(text)
        if self._closed is None or self._python.broken:
            return self._closed
        line_end = text.find("\n", self._closed)
        return None if line_end < 0 else line_end + 1


class _FencedEnd:
    """A fenced block, up to its closing fence."""

    def __init__(self, start: int) -> None:
        self._at = start

    def find_end(self, text: str) -> int | None:
        fence = _FENCE_END.search(text, self._at)
        if fence is None:
            self._at = max(self._at, len(text) - 16)
            return None
        return fence.end()
