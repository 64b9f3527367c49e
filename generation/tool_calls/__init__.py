"""Calls of tools, read out of what a model says."""

from tokentape.generation.tool_calls.parsed_call import ParsedCall
from tokentape.generation.tool_calls.reader import CallReader

__all__ = ("CallReader", "ParsedCall")
