"""A protocol run to its end with nobody at the keyboard."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation import hf
from tokentape.generation.callbacks import TokenCallback
from tokentape.generation.engine.turn import turn_settings
from tokentape.generation.errors import ModelError, PromptError, ToolError
from tokentape.generation.plans.placeholders import resolve
from tokentape.generation.plans.plan import ExperimentPlan, PlanTurn
from tokentape.generation.tools.interface import ToolInterface
from tokentape.generation.tools.runner import ToolCall

if TYPE_CHECKING:
    from tokentape.generation.investigation.investigation import Investigation
    from tokentape.generation.investigation.reply import Reply

Progress = Callable[[PlanTurn, "Reply"], None]


def run_plan(
    run: "Investigation",
    protocol: ExperimentPlan,
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
    protocol: ExperimentPlan, model: Any, tokenizer: PreTrainedTokenizerBase
) -> tuple[PlanTurn, ...]:
    """The turns of a protocol for a model: its own weights named, its settings tried.

    Raises PromptError, with the turn, where the model has no such weights or `generate` no such
    settings.
    """
    turns = protocol.turns()
    tried: list[Mapping[str, Any]] = []
    for turn in turns:
        if turn.settings not in tried:
            with _named(protocol, turn):
                hf.check_settings(
                    model,
                    tokenizer,
                    turn_settings(model, **turn.settings).config,
                    torch.zeros((1, 1), dtype=torch.long, device=model.device),
                )
            tried.append(turn.settings)
    return tuple(_fitted(turn, protocol, model) for turn in turns)


def chosen_tools(protocol: ExperimentPlan, available: ToolInterface) -> ToolInterface:
    """Those that the protocol names. Raises PromptError where one is not available."""
    try:
        return available.only(protocol.tools)
    except ToolError as error:
        raise PromptError(f"{protocol.name}: {error}") from None


def _fitted(turn: PlanTurn, protocol: ExperimentPlan, model: Any) -> PlanTurn:
    with _named(protocol, turn):
        calls = tuple(
            ToolCall(name=call.name, arguments=resolve(call.arguments, model))
            for call in turn.tool_calls
        )
    return replace(turn, tool_calls=calls)


@contextmanager
def _named(protocol: ExperimentPlan, turn: PlanTurn) -> Iterator[None]:
    """Say in which turn something is wrong."""
    try:
        yield
    except ModelError as error:
        raise PromptError(f"{protocol.name}, turn {turn.number}: {error}") from None
