"""Replies with calls as a chat template writes them, with made-up names and values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from json import dumps
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.hf.bounded_templates import apply_chat_template
from tokentape.generation.tools.calls.literals import ID, common_prefix

NAMES = ("lookzqa", "fetchzqb")
"""The names of two made-up tools."""
KEYS = ("argzqa", "argzqb", "argzqc")
"""The names of their arguments."""
TEXTS = ("wordzqa", "wordzqb")
_QUESTION = "questionzq"
_REPLY = "replyzq"
_THOUGHT = "thoughtzq"
_IDS = ("callzqa01", "callzqb02")
_ID_SHAPES = ("{id}", "functions.{name}:{index}")

Arguments = Mapping[str, Any]
Call = tuple[str, Arguments]
"""A tool's name and its arguments."""


class TemplateReplies:
    """Writes replies with calls by a chat template, in one of the ways to give it calls."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any], way: "Way"
    ) -> None:
        """`settings` are variables of the template."""
        self._tokenizer = tokenizer
        self._settings = settings
        self._way = way
        self._opening = self._render([], add_generation_prompt=True)
        plain = self._render([{"role": "assistant", "content": _REPLY}])
        before, found, after = (plain or "").partition(_REPLY)
        self._headers = [each for each in (self._opening, before if found else None) if each]
        self._end = after.strip() if found else ""

    def write(self, calls: Sequence[Call], text: str = "") -> str | None:
        """Return a reply with these calls, without the beginning and end of its message.

        Ids of calls are replaced by `⟨id⟩`. Return None if the template refuses the calls.
        """
        given = [self._call(index, *each) for index, each in enumerate(calls)]
        content = text or self._way.content
        written = self._render([_assistant(content, tool_calls=given)], calls)
        if written is None:
            return None
        if self._way.id_shape == _ID_SHAPES[0]:
            for call in given:
                written = written.replace(call["id"], ID)
        return self._without_end(written[self._start(written) :])

    def thinking(self) -> tuple[str, str]:
        """Return what the template writes before and after a thought; empty if it writes none."""
        call = self._call(0, NAMES[0], {})
        thought = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THOUGHT)
        written = self._render([_assistant(self._way.content, tool_calls=[call], **thought)])
        if written is None or written.count(_THOUGHT) != 1:
            return "", ""
        before, _, after = written.partition(_THOUGHT)
        start = len(common_prefix(self._opening or "", before))
        return before[start:].strip(), after.strip()

    def _start(self, written: str) -> int:
        """Return the index at which the reply itself begins."""
        begun = [len(each) for each in self._headers if written.startswith(each)]
        return max(begun or [len(common_prefix(each, written)) for each in self._headers] or [0])

    def _without_end(self, written: str) -> str:
        """Return a reply without the text that also ends replies without calls."""
        stripped = written.rstrip()
        for end in (self._end, str(self._tokenizer.eos_token or "")):
            if end and stripped.endswith(end):
                return stripped.removesuffix(end)
        return stripped

    def _call(self, index: int, name: str, arguments: Arguments) -> dict[str, Any]:
        given = dict(arguments) if self._way.as_mapping else dumps(arguments, ensure_ascii=False)
        call_id = self._way.id_shape.format(id=_IDS[index], name=name, index=index)
        return {"type": "function", "id": call_id, "function": {"name": name, "arguments": given}}

    def _render(
        self, replies: Sequence[Any], calls: Sequence[Call] = (), **settings: Any
    ) -> str | None:
        """Return what follows the question in a conversation; None if the template refuses it."""
        tools: list[Any] | None = None
        if self._way.with_tools:
            tools = [{"type": "function", "function": each} for each in schemas_of(calls)]
        try:
            written = apply_chat_template(
                self._tokenizer,
                [{"role": "user", "content": _QUESTION}, *replies],
                tools=tools,
                tokenize=False,
                **{**self._settings, **settings},
            )
        except Exception:  # a template may raise anything
            return None
        if not isinstance(written, str) or _QUESTION not in written:
            return None
        return written.rpartition(_QUESTION)[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to give calls to a chat template."""

    as_mapping: bool
    """Whether arguments are given as a mapping, not as JSON text."""
    content: str | None
    """The text of a reply that has only calls."""
    with_tools: bool
    """Whether the schemas of the tools are given."""
    id_shape: str
    """The ids of calls. Some templates write an id in place of a name."""


def ways() -> Iterator[Way]:
    """Yield the ways to give calls to a template, the usual one first."""
    for shape, as_mapping, content, tools in product(
        _ID_SHAPES, (True, False), ("", None), (True, False)
    ):
        yield Way(as_mapping=as_mapping, content=content, with_tools=tools, id_shape=shape)


def schemas_of(calls: Sequence[Call]) -> list[dict[str, Any]]:
    """Return the schemas of the made-up tools, which take the arguments of all these calls."""
    types = {key: _type_of(value) for _, given in calls for key, value in given.items()}
    parameters = {"type": "object", "properties": types, "required": []}
    return [{"name": name, "description": "A tool.", "parameters": parameters} for name in NAMES]


def _type_of(value: Any) -> dict[str, Any]:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    kind = "null" if value is None else kinds.get(type(value), "object")
    return {"type": kind, "description": "An argument."}


def _assistant(content: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}
