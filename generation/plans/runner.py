"""Run a plan from its first turn to its last."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from tokentape.generation.callbacks import TokenCallback
from tokentape.generation.context_length import context_tokens
from tokentape.generation.engine.prepared_turn import check_turn_settings
from tokentape.generation.errors import ModelError, PromptError, ToolError
from tokentape.generation.history.chosen_tokens import encode_reply_prefix
from tokentape.generation.introspection.toolset import default_tools
from tokentape.generation.investigation.investigation import Investigation
from tokentape.generation.investigation.reply import Reply
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.plans.placeholders import resolve
from tokentape.generation.plans.plan import ExperimentPlan, PlanTurn
from tokentape.generation.run_settings import AtContextLimit
from tokentape.generation.tools.interface import ToolInterface
from tokentape.generation.tools.tool_call import ToolCall
from tokentape.recorder import EventLog

Progress = Callable[[PlanTurn, Reply], None]


def begin_plan(
    plan: ExperimentPlan,
    lm: LoadedModel,
    store: EventLog,
    *,
    name: str | None = None,
    tools: ToolInterface | None = None,
) -> Investigation:
    """Return an investigation for the plan, to be entered and given to `run_plan`.

    It has the plan's system prompt, seed and limits, those of the `tools` that the plan names, by
    default of the default tools, and the name of the plan unless another is given. The plan is
    recorded with the run. Raise PromptError if the model cannot run the plan.
    """
    available = default_tools(lm) if tools is None else tools
    check_plan(plan, lm, available)
    return Investigation(
        lm,
        store=store,
        name=name or plan.name,
        system_prompt=plan.system_prompt,
        tools=plan_tools(plan, available),
        seed=plan.seed,
        at_context_limit=cast("AtContextLimit", plan.limits.at_context_limit),
        tool_calls_max=plan.limits.tool_calls_max,
        plan=plan.described(),
    )


def run_plan(
    run: Investigation,
    plan: ExperimentPlan,
    *,
    progress: Progress | None = None,
    callback: TokenCallback | None = None,
) -> tuple[Reply, ...]:
    """Run the turns that an investigation has not had yet, and return their replies.

    A resumed run thus continues with its next turn, and with the settings of its plan as they are.
    `progress` is called after each turn, `callback` after each token. Raise PromptError before the
    first turn if the plan does not fit the model, later as `Investigation.chat`.
    """
    replies = []
    model, tokenizer = run.generator.model, run.generator.tokenizer
    is_recorded = run.resume_point is not None
    turns = turns_for_model(plan, model, tokenizer, is_recorded=is_recorded)
    for turn in turns[run.generator.turn :]:
        reply = run.chat(
            turn.message,
            tool_calls=turn.tool_calls,
            reply_prefix=turn.reply_prefix,
            callback=callback,
            **turn.settings,
        )
        replies.append(reply)
        if progress is not None:
            progress(turn, reply)
    return tuple(replies)


def turns_for_model(
    plan: ExperimentPlan,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_recorded: bool = False,
) -> tuple[PlanTurn, ...]:
    """Return a plan's turns with the model's own weight names in place of placeholders.

    Raise PromptError, with the number of the turn, if the model has no such weight, `generate`
    rejects the turn's settings, or one of them changes nothing. Runs of 0.1.0 were recorded with
    plans that have such a setting: it is accepted in a plan that `is_recorded`.
    """
    turns = plan.turns()
    if is_recorded:
        turns = tuple(replace(t, settings={**t.settings, "check_effect": False}) for t in turns)
    accepted: list[Mapping[str, Any]] = []
    for turn in turns:
        if turn.settings not in accepted:
            with _naming_turn(plan, turn):
                check_turn_settings(model, tokenizer, turn.settings, context_tokens=None)
            accepted.append(turn.settings)
    return tuple(_resolved(turn, plan, model) for turn in turns)


def plan_tools(plan: ExperimentPlan, available: ToolInterface) -> ToolInterface:
    """Return the tools that the plan names. Raise PromptError if one is not available."""
    try:
        return available.only(plan.tools)
    except ToolError as error:
        file = plan.tools_file
        hint = f"; the plan names the file {file}: is it in there, with @tt.tool?" if file else ""
        raise PromptError(f"{plan.name}: {error}{hint}") from None


def check_plan(plan: ExperimentPlan, lm: LoadedModel, tools: ToolInterface | None = None) -> None:
    """Check that a model can run a plan. Raise PromptError, with the number of the turn, if not.

    Checked are tools, weight names, settings of `generate`, and, if the plan does not prune its
    history, that system prompt and messages fit into the context without replies and results.
    """
    tools = plan_tools(plan, default_tools(lm) if tools is None else tools)
    turns = turns_for_model(plan, lm.model, lm.tokenizer)
    for turn in turns:
        prefix = encode_reply_prefix(lm.tokenizer, "", turn.reply_prefix)
        if len(prefix) > plan.limits.max_new_tokens:
            raise PromptError(
                f"{plan.name}, turn {turn.number}: reply_prefix has {len(prefix)} tokens, and "
                f"max_new_tokens {plan.limits.max_new_tokens} counts them"
            )
    longest = context_tokens(lm.model)
    if longest is None or plan.limits.at_context_limit != "refuse":
        return

    def count_tokens(text: str) -> int:
        return len(lm.tokenizer.encode(text, add_special_tokens=False))

    tokens = count_tokens(plan.system_prompt.replace("{tools}", tools.documentation()))
    for turn in turns:
        tokens += count_tokens(turn.message)
        if tokens + plan.limits.max_new_tokens > longest:
            raise PromptError(
                f"{plan.name}, turn {turn.number}: system prompt and messages up to this turn have "
                f"{tokens} tokens, and {plan.limits.max_new_tokens} new ones do not fit into the "
                f"model's context of {longest}"
            )


def _resolved(turn: PlanTurn, plan: ExperimentPlan, model: Any) -> PlanTurn:
    with _naming_turn(plan, turn):
        calls = tuple(
            ToolCall(name=call.name, arguments=resolve(call.arguments, model))
            for call in turn.tool_calls
        )
    return replace(turn, tool_calls=calls)


@contextmanager
def _naming_turn(plan: ExperimentPlan, turn: PlanTurn) -> Iterator[None]:
    """Name the plan and the turn in errors."""
    try:
        yield
    except ModelError as error:
        raise PromptError(f"{plan.name}, turn {turn.number}: {error}") from None
