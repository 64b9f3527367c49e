"""Calls of tools, read out of what a model says."""

from tokentape.generation.tools.calls.parsed_call import ParsedCall
from tokentape.generation.tools.calls.reader import CallReader

__all__ = ("CallReader", "ParsedCall")
