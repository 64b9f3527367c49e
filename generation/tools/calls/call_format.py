"""What there is to know of a way to write calls."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from tokentape.generation.tools.calls.parsed_call import ParsedCall
from tokentape.generation.tools.interface import ToolInterface


class BegunCall(Protocol):
    """A call of which the beginning has been seen."""

    def end(self, text: str) -> int | None:
        """Where it ends, None as long as it does not; the text only ever grows."""


class CallFormat(ABC):
    """How calls are written.

    `rule` says it in a sentence. `opening` finds where a call may begin, in 300 characters at most;
    `endings` are what a text ends with in which one has just been completed, but for blanks and
    `separators`.
    """

    rule: ClassVar[str]
    opening: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]
    separators: ClassVar[str] = ""

    def __init__(self, tools: ToolInterface) -> None:
        self._tools = tools

    @abstractmethod
    def begin(self, opening: re.Match[str]) -> BegunCall | None:
        """What finds the end of the call; None where it is no call."""

    @abstractmethod
    def parse(self, text: str, *, closed: bool) -> tuple[ParsedCall, ...]:
        """The calls in the text from an opening to its end; none where it is no call after all.

        Not `closed`: the reply ended first.
        """

    @abstractmethod
    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        """A call as a model should write it."""
