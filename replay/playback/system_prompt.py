"""The system prompt of an application, with its placeholders filled as far as that needs no model.

`{tools}` ends with how the model writes its calls, which follows from its tokenizer: that part is
taken from the recorded prompt.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokentape.generation.investigation.initial_prompt import memory_instructions
from tokentape.generation.tools.sources import source_sha256
from tokentape.recorder.events import RunStarted

if TYPE_CHECKING:
    from tokentape.generation import ToolInterface

_PLACEHOLDER = re.compile(r"(\{tools\}|\{memory\})")


class GivenTools:
    """The tools of an application: a `ToolInterface`, or functions, which need no schema yet.

    To make a `ToolInterface` imports transformers, and that torch.
    """

    def __init__(self, given: "ToolInterface | Sequence[Callable[..., Any]] | None") -> None:
        self._given = given
        self._functions = () if given is None or hasattr(given, "names") else tuple(given)
        if not all(callable(each) for each in self._functions):
            raise TypeError(f"tools are a ToolInterface or a list of functions, not {given!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tools, in order."""
        if self._given is None or self._functions:
            return tuple(each.__name__ for each in self._functions)
        return tuple(getattr(self._given, "names", ()))

    @cached_property
    def interface(self) -> "ToolInterface":
        """The tools as a `ToolInterface`, which is made of functions if need be."""
        from tokentape.generation.tools.interface import ToolInterface

        if isinstance(self._given, ToolInterface):
            return self._given
        return ToolInterface(self._functions)

    def are_recorded(self, started: RunStarted) -> bool:
        """Return whether functions are known to be the recorded ones, by their source."""
        recorded = started.tool_sources
        if not self._functions or self.names != tuple(started.tools):
            return False
        return all(
            isinstance(source := recorded.get(each.__name__), Mapping)
            and source_sha256(each) == source.get("sha256")
            for each in self._functions
        )


@dataclass(frozen=True, slots=True)
class SystemPromptFiller:
    """Fills the placeholders of a system prompt as the recorded run did."""

    started: RunStarted
    tools: GivenTools

    def fill(self, system_prompt: str, recorded: str) -> str:
        """Return the application's system prompt; equal to the recorded one if it is the same.

        Parts that only the recorded model can say are taken from `recorded`.
        """
        pieces = [self._text_of(each) for each in filter(None, _PLACEHOLDER.split(system_prompt))]
        pattern = "".join(re.escape(text) + ("(?s:.*)" if more else "") for text, more in pieces)
        if re.fullmatch(pattern, recorded):
            return recorded
        filled = ""
        for index, (text, more) in enumerate(pieces):
            filled += text
            if more and recorded.startswith(filled):
                ends = (each for each, (_, also) in enumerate(pieces) if also and each > index)
                fixed = pieces[index + 1 : next(ends, len(pieces) - 1) + 1]
                filled += _up_to("".join(text for text, _ in fixed), recorded[len(filled) :])
        return filled

    def _text_of(self, piece: str) -> tuple[str, bool]:
        """Return the text of a literal or a placeholder, and whether more of it may follow."""
        if not _PLACEHOLDER.fullmatch(piece):
            return piece, False
        if self.tools.are_recorded(self.started):
            return "", True
        if piece == "{tools}":
            names = self.tools.names
            return (self.tools.interface.documentation() if names else ""), bool(names)
        schemas = self.tools.interface.get_available_tools() if self.tools.names else []
        own = self.started.settings.get("context_tokens")
        context = own if isinstance(own, int) else self.started.context_tokens
        return memory_instructions(schemas, context), False


def _up_to(following: str, text: str) -> str:
    """Return the start of a text, up to where as much as possible of `following` comes."""
    low, high = 0, len(following)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if following[:middle] in text else (low, middle - 1)
    return text[: text.index(following[:low])] if low else text
