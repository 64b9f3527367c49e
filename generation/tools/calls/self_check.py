"""Check that a call format reads what a chat template writes."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tokentape.generation.tools.calls.call_format import CallFormat
from tokentape.generation.tools.calls.parsed_call import ParsedCall
from tokentape.generation.tools.calls.scanner import FormatScanner, may_end_call
from tokentape.generation.tools.calls.template_calls import (
    KEYS,
    NAMES,
    TEXTS,
    Arguments,
    Call,
    TemplateReplies,
    schemas_of,
)
from tokentape.generation.tools.interface import ToolInterface

MakeFormat = Callable[[ToolInterface], CallFormat]

ONE_TEXT: Arguments = {KEYS[0]: TEXTS[0]}
_ONE_CALL: list[Call] = [(NAMES[0], ONE_TEXT)]
_ARGUMENTS: tuple[Arguments, ...] = (
    {},
    ONE_TEXT,
    {KEYS[0]: TEXTS[0], KEYS[1]: TEXTS[1], KEYS[2]: ""},
    {KEYS[0]: 31337, KEYS[1]: -2.5, KEYS[2]: TEXTS[0]},
    {KEYS[0]: True, KEYS[1]: False},
    {KEYS[0]: None, KEYS[1]: 0},
    {KEYS[0]: [1, 2], KEYS[1]: []},
    {KEYS[0]: {KEYS[1]: TEXTS[1], KEYS[2]: [True, None, {KEYS[0]: 1.5}]}, KEYS[1]: TEXTS[0]},
    {KEYS[0]: "42", KEYS[1]: "true", KEYS[2]: "null"},
    {KEYS[0]: 'a "quoted" word', KEYS[1]: "it's", KEYS[2]: "back\\slash"},
    {KEYS[0]: "two\nlines <b>\n", KEYS[1]: "é ሰላም 🜁", KEYS[2]: "{a: [b]}, (c)"},
)
_SAID = "Let me see.\n"


def reads_template(make_format: MakeFormat, replies: TemplateReplies) -> bool:
    """Return whether a format reads what the template writes as calls equal to those given.

    Calls that the template refuses or leaves out are not checked.
    """
    for calls, text in _samples():
        written = replies.write(calls, text)
        if written is None or not all(name in written for name, _ in calls):
            continue
        if _read(make_format, calls, written) != calls:
            return False
    return _completes(make_format, replies)


def encloses_calls(make_format: MakeFormat, replies: TemplateReplies) -> bool:
    """Return whether a format's call is all that the template writes of it, tags included.

    A tag that ends a message may follow it, and a thought may come before it.
    """
    written = replies.write(_ONE_CALL) or ""
    call_format = make_format(_tools(_ONE_CALL))
    end = next((end for end in range(len(written) + 1) if _calls(call_format, written[:end])), None)
    thought = r"(?:.*</?[^<>]{0,20}think[^<>]{0,20}>)?"
    begins = re.compile(rf"(?s:{thought})\s*(?:{call_format.opening})", re.MULTILINE)
    rest = written if end is None else written[end:]
    return begins.match(written) is not None and bool(re.fullmatch(r"\s*(?:<\|\S+\|>)?", rest))


def _completes(make_format: MakeFormat, replies: TemplateReplies) -> bool:
    """Return whether a call is complete somewhere in the reply, and equal to the given one."""
    written = replies.write(_ONE_CALL) or ""
    call_format = make_format(_tools(_ONE_CALL))
    ends = (_calls(call_format, written[:end]) for end in range(len(written) + 1))
    first = next(filter(None, ends), None)
    return not call_format.endings if first is None else first == _ONE_CALL


def _samples() -> Iterator[tuple[list[Call], str]]:
    for arguments in _ARGUMENTS:
        yield [(NAMES[0], arguments)], ""
    yield [(NAMES[1], ONE_TEXT)], _SAID
    yield [(NAMES[0], {}), (NAMES[1], ONE_TEXT)], ""
    yield [(NAMES[0], ONE_TEXT), (NAMES[1], {KEYS[1]: 7})], _SAID


def _read(make_format: MakeFormat, calls: list[Call], written: str) -> list[tuple[str, Any]]:
    return _pairs(FormatScanner(make_format(_tools(calls)), prefix="").all_calls(written))


def _calls(call_format: CallFormat, text: str) -> list[tuple[str, Any]]:
    """Return the calls that the end of a text completes."""
    if not may_end_call(call_format, text):
        return []
    return _pairs(FormatScanner(call_format, prefix="").calls(text))


def _pairs(calls: Sequence[ParsedCall]) -> list[tuple[str, Any]]:
    return [(each.error or each.name, dict(each.arguments)) for each in calls]


def _tools(calls: list[Call]) -> ToolInterface:
    return ToolInterface.from_schemas(schemas_of(calls))
