"""Protocols: investigations as data, and what runs them."""

from tokentape.generation.protocols.files import load_protocol, shipped_protocols
from tokentape.generation.protocols.placeholders import resolve
from tokentape.generation.protocols.protocol import Protocol, ProtocolTurn
from tokentape.generation.protocols.unattended import chosen_tools, fitted_turns, run_protocol

__all__ = (
    "Protocol",
    "ProtocolTurn",
    "chosen_tools",
    "fitted_turns",
    "load_protocol",
    "resolve",
    "run_protocol",
    "shipped_protocols",
)
