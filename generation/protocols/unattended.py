"""A protocol run to its end with nobody at the keyboard."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from tokentape.generation import hf
from tokentape.generation.errors import ModelError, PromptError, ToolError
from tokentape.generation.protocols.placeholders import resolve
from tokentape.generation.protocols.protocol import Protocol, ProtocolTurn
from tokentape.generation.state import TokenCallback
from tokentape.generation.tool_use import ToolCall
from tokentape.generation.tools import ToolInterface
from tokentape.generation.turn import turn_settings
from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:
    from tokentape.generation.investigation import Investigation
    from tokentape.generation.reply import Reply

Progress = Callable[[ProtocolTurn, "Reply"], None]


def run_protocol(
    run: "Investigation",
    protocol: Protocol,
    *,
    progress: Progress | None = None,
    callback: TokenCallback | None = None,
) -> "tuple[Reply, ...]":
    """Take the turns that the run has not taken yet; a run that was resumed goes on.

    `progress` is told of each turn and its reply, `callback` of each token. Raises as `chat` does,
    and before the first turn where the protocol does not fit the model.
    """
    replies = []
    model, tokenizer = run.generator.model, run.generator.tokenizer
    for turn in fitted_turns(protocol, model, tokenizer)[run.generator.turn :]:
        reply = run.chat(
            turn.message, tool_calls=turn.tool_calls, callback=callback, **turn.settings
        )
        replies.append(reply)
        if progress is not None:
            progress(turn, reply)
    return tuple(replies)


def fitted_turns(
    protocol: Protocol, model: Any, tokenizer: PreTrainedTokenizerBase
) -> tuple[ProtocolTurn, ...]:
    """The turns of a protocol for a model: its own weights named, its settings tried.

    Raises PromptError, with the turn, where the model has no such weights or `generate` no such
    settings.
    """
    turns = protocol.turns()
    tried: list[Mapping[str, Any]] = []
    for turn in turns:
        if turn.settings not in tried:
            with _named(protocol, turn):
                hf.rehearse(
                    model,
                    tokenizer,
                    turn_settings(model, **turn.settings).config,
                    torch.zeros((1, 1), dtype=torch.long, device=model.device),
                )
            tried.append(turn.settings)
    return tuple(_fitted(turn, protocol, model) for turn in turns)


def chosen_tools(protocol: Protocol, available: ToolInterface) -> ToolInterface:
    """Those that the protocol names. Raises PromptError where one is not available."""
    try:
        return available.only(protocol.tools)
    except ToolError as error:
        raise PromptError(f"{protocol.name}: {error}") from None


def _fitted(turn: ProtocolTurn, protocol: Protocol, model: Any) -> ProtocolTurn:
    with _named(protocol, turn):
        calls = tuple(
            ToolCall(name=call.name, arguments=resolve(call.arguments, model))
            for call in turn.tool_calls
        )
    return replace(turn, tool_calls=calls)


@contextmanager
def _named(protocol: Protocol, turn: ProtocolTurn) -> Iterator[None]:
    """Say in which turn something is wrong."""
    try:
        yield
    except ModelError as error:
        raise PromptError(f"{protocol.name}, turn {turn.number}: {error}") from None
