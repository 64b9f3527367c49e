"""Calls of tools, read out of what a model says."""

from generation.tool_calls.parsed_call import ParsedCall
from generation.tool_calls.reader import CallReader

__all__ = ("CallReader", "ParsedCall")
