"""The description of an investigation's run, with the choices that follow from the model."""

from dataclasses import replace
from typing import cast

from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.engine.run_description import RunDescription
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.history.format_probe import choose_format
from tokentape.generation.introspection.toolset import IntrospectionTools
from tokentape.generation.investigation.tool_call_detector import call_warnings
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.run_settings import ResultRole, RunSettings
from tokentape.generation.tools.calls import CallReader
from tokentape.generation.tools.interface import ToolInterface
from tokentape.generation.tools.runner import ToolRunner
from tokentape.recorder import Recorder


def describe_run(
    lm: LoadedModel,
    reader: CallReader,
    tools: ToolInterface,
    *,
    name: str,
    seed: int,
    settings: RunSettings,
    conversation_format: ConversationFormat | None,
    system_prompt: str,
    resumed: bool,
) -> RunDescription:
    """Return the description of a run, with the call format and result role in use.

    Without a recorded `conversation_format`, choose one by the chat template. Raise PromptError if
    the template can write no conversation, or no results of tools.
    """
    chosen = conversation_format or choose_format(
        lm.tokenizer,
        template_settings=settings.template_settings,
        tools=tools.get_available_tools(),
        result_role=settings.tool_result_role,
    )
    resolved = replace(settings, tool_call_format=reader.described)
    if tools.names:
        role = cast("ResultRole", chosen.result_role(by_model=True))
        resolved = replace(resolved, tool_result_role=role)
    else:
        resolved = replace(resolved, tool_calls_max=0)
    return RunDescription(
        name=name,
        model=lm.name,
        seed=seed,
        settings=resolved,
        tools=tuple(tools.names),
        tool_sources=tools.sources(),
        conversation_format=chosen,
        warnings=call_warnings(reader, system_prompt, settings.tool_calls_max),
        resumed=resumed,
    )


def tool_runner(
    generator: ManualGenerator,
    tools: ToolInterface,
    recorder: Recorder,
    conversation_format: ConversationFormat,
) -> ToolRunner:
    """Return what runs the tools of a run and records their calls."""
    inspector = tools.inspector if isinstance(tools, IntrospectionTools) else None
    return ToolRunner(
        tools=tools,
        tokenizer=generator.tokenizer,
        recorder=recorder,
        context=generator.with_recorded_interventions,
        format=conversation_format,
        take_observations=tuple if inspector is None else inspector.take_events,
    )
