"""Parsers of the tool calls in a model's reply."""

from tokentape.generation.tools.calls.parsed_call import ParsedCall
from tokentape.generation.tools.calls.reader import CallReader

__all__ = ("CallReader", "ParsedCall")
