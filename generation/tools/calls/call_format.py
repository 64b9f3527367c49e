"""The interface of a text format for tool calls."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from tokentape.generation.tools.calls.parsed_call import ParsedCall
from tokentape.generation.tools.interface import ToolInterface


class OpenCall(Protocol):
    """A call whose beginning has been read."""

    def find_end(self, text: str) -> int | None:
        """Return the index after the call's last character, None if the call is not complete.

        `text` is the reply so far: each call gets the text of the one before, longer or equal.
        """


class CallFormat(ABC):
    """A text format in which models write tool calls."""

    rule: str
    """The format in one sentence, for the instructions to the model."""
    opening: str
    """Pattern of the beginning of a call; it matches 300 characters at most."""
    endings: tuple[str, ...]
    """Strings of which one ends every complete call."""
    separators: str = ""
    """Characters that may follow a call, as blanks may."""
    thinking: Mapping[str, str] = MappingProxyType({})
    """Beginning and end of further blocks, besides the usual ones, in which calls are ignored."""
    skips_code_blocks: bool = False
    """Whether calls in a fenced code block are ignored."""

    def __init__(self, tools: ToolInterface) -> None:
        self._tools = tools

    @abstractmethod
    def open_call(self, opening: re.Match[str]) -> OpenCall | None:
        """Return the call that begins at this match; None if it is not a call."""

    @abstractmethod
    def parse(self, text: str, *, closed: bool) -> tuple[ParsedCall, ...]:
        """Return the calls in the text from an opening to its end; empty if it is not a call.

        `closed` is False if the reply ended before the call did.
        """

    @abstractmethod
    def example(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return a call in this format."""
