"""The lengths of an experiment plan's prompts, estimated without running it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokentape.generation.errors import ModelError, PromptError
from tokentape.generation.introspection.toolset import default_tools
from tokentape.generation.investigation.initial_prompt import initial_prompt, memory_instructions
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.plans.memory_plan import TurnLength
from tokentape.generation.plans.placeholders import resolve
from tokentape.generation.plans.plan import ExperimentPlan, PlanTurn
from tokentape.generation.plans.runner import plan_tools
from tokentape.generation.tools.calls import CallReader
from tokentape.generation.tools.tool_call import ToolCall

_COMPACT_VIEW = (
    '{"name": "%s", "shape": [4096, 14336], "num_parameters": 58720256, "mean": 9.231e-05, '
    '"std": 0.1851, "min": -2.969, "max": 2.547, "l2_norm": 174.1}'
)
"""A compact result of `get_weight_statistics` for one tensor."""
_FULL_VIEW = 9
"""The length of a full result of that tool, in compact ones."""
_OTHER_VIEW = 3
"""The length of a result of another tool, in compact ones."""
_MESSAGE_TOKENS = 8
"""Tokens that a chat template writes around a message."""
_CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLengths:
    """The lengths of a plan's prompts, in tokens."""

    system_tokens: int
    turns: tuple[TurnLength, ...]
    notes: tuple[str, ...]
    """What was assumed, a sentence each."""


def plan_lengths(
    plan: ExperimentPlan,
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    context_tokens: int | None,
) -> PlanLengths:
    """Return the lengths of the plan's prompts, with the longest replies that it allows.

    The model may be on torch's meta device. Without a tokenizer, a token is 4 characters. Results
    of tools have the length of a typical one; calls that the model makes itself are not counted. A
    plan that prunes its history keeps within the context. Raise PromptError if the plan names a
    tool or a weight that does not exist.
    """

    def count(text: str) -> int:
        if tokenizer is None:
            return -(-len(text) // _CHARS_PER_TOKEN)
        return len(tokenizer.encode(text, add_special_tokens=False))

    new = plan.limits.max_new_tokens
    system = _MESSAGE_TOKENS + count(_system_text(plan, model, tokenizer, context_tokens))
    prunes = plan.limits.at_context_limit != "refuse" and context_tokens is not None
    held, turns = system, []
    for turn in plan.turns():
        prompt = held + 2 * _MESSAGE_TOKENS + count(turn.message)
        prompt += sum(
            _MESSAGE_TOKENS + _result_tokens(call, turn, plan, model, count)
            for call in turn.tool_calls
        )
        if prunes:
            prompt = min(prompt, (context_tokens or prompt) - new)
        turns.append(TurnLength(prompt_tokens=prompt, new_tokens=new))
        held = prompt + new
    notes = [f"every reply has {new} tokens, the most that {plan.name} allows"]
    if any(turn.tool_calls for turn in plan.turns()):
        notes.append("results of tools have a typical length; the model calls no tools itself")
    if plan.tools_file is not None:
        notes.append(f"the descriptions of the tools in {plan.tools_file} are not counted")
    if tokenizer is None:
        notes.append(f"no tokenizer was found: a token is {_CHARS_PER_TOKEN} characters")
    return PlanLengths(system_tokens=system, turns=tuple(turns), notes=tuple(notes))


def given_lengths(prompt_tokens: Sequence[int], new_tokens: int) -> PlanLengths:
    """Return turns with prompts of these lengths, each the beginning of the next.

    A reply is at most as long as the next prompt has room for. Raise ModelError if a prompt is not
    longer than the one before.
    """
    turns = []
    for number, prompt in enumerate(prompt_tokens, 1):
        following = prompt_tokens[number : number + 1]
        room = following[0] - prompt - 1 if following else new_tokens
        if prompt < 1 or room < 1:
            raise ModelError(
                f"the prompt of turn {number + bool(following)} has "
                f"{following[0] if following else prompt} tokens: a prompt has the one before, its "
                "reply and a message in it, so give rising numbers"
            )
        turns.append(TurnLength(prompt_tokens=prompt, new_tokens=min(new_tokens, room)))
    return PlanLengths(system_tokens=0, turns=tuple(turns), notes=())


def _system_text(
    plan: ExperimentPlan,
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    context_tokens: int | None,
) -> str:
    # The tools are described here, not run.
    available = default_tools(LoadedModel(model, tokenizer, ""))  # type: ignore[arg-type]
    if plan.tools_file is None:
        tools = plan_tools(plan, available)
    else:  # its code is not run for an estimate
        tools = available.only(name for name in plan.tools if name in available.names)
    texts = [tools.documentation()]
    if tokenizer is not None and plan.limits.tool_calls_max:
        texts.append(CallReader(tokenizer, tools).instructions())
    return initial_prompt(
        plan.system_prompt,
        tools="\n\n".join(filter(None, texts)),
        memory=memory_instructions(tools.get_available_tools(), context_tokens),
    )


def _result_tokens(
    call: ToolCall,
    turn: PlanTurn,
    plan: ExperimentPlan,
    model: Any,
    count: Callable[[str], int],
) -> int:
    """Return the tokens of a typical result of a call."""
    try:
        arguments = resolve(call.arguments, model)
    except ModelError as error:
        raise PromptError(f"{plan.name}, turn {turn.number}: {error}") from None
    named = arguments.get("layer_name", "")
    names = named if isinstance(named, list | tuple) else [named]
    each = sum(count(_COMPACT_VIEW % name) for name in names)
    if call.name != "get_weight_statistics":
        return _OTHER_VIEW * each
    return each if arguments.get("compact", True) else _FULL_VIEW * each
