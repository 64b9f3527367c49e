"""A run whose tools a client of the model runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from tokentape.generation.engine.turn import TurnResult, turn_settings
from tokentape.generation.errors import PromptError
from tokentape.generation.history.conversation_format import ConversationFormat, ResultStyle
from tokentape.generation.history.format_probe import choose_format
from tokentape.generation.history.messages import NewMessage
from tokentape.generation.investigation.initial_prompt import TOOLS_PLACEHOLDER
from tokentape.generation.investigation.investigation import Investigation
from tokentape.generation.investigation.resume_point import (
    ResumePoint,
    recorded_result,
    resumed_event,
)
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.run_settings import InvestigationKeywords
from tokentape.generation.tools.calls import CallReader, ParsedCall
from tokentape.generation.tools.interface import ToolInterface
from tokentape.generation.tools.runner import ToolRunner, call_id
from tokentape.generation.tools.tool_call import ToolCall
from tokentape.recorder import EventLog, Recorder
from tokentape.recorder.chat_messages import TOOL, ChatMessage, ChatToolCall
from tokentape.recorder.events import RunForked, ToolCalled


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitedCalls:
    """The calls with which a reply ended, whose results its client sends."""

    calls: tuple[ParsedCall, ...] = ()
    first_number: int = 1
    """The number of the first of them among the calls of the run."""
    turn: int = 0
    """The turn of the reply."""
    step: int = 0
    """The number of its tokens."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the calls, which their results name."""
        return tuple(call_id(self.first_number + index) for index in range(len(self.calls)))


class ClientRun(Investigation):
    """A run with tools that only its client can run: each reply ends with its first calls.

    The client gives their results with the messages of the next turn. The tools are described by
    the chat template if it writes them, else at the end of the system prompt.
    """

    def __init__(
        self,
        lm: LoadedModel,
        *,
        store: EventLog,
        name: str,
        system_prompt: str,
        tools: ToolInterface | None = None,
        seed: int = 0,
        recorder: Recorder | None = None,
        conversation_format: ConversationFormat | None = None,
        **settings: Unpack[InvestigationKeywords],
    ) -> None:
        """Set up a run; see `Investigation`. No placeholder of the `system_prompt` is replaced."""
        schemas = tools.get_available_tools() if tools is not None else ()
        chosen = conversation_format or choose_format(
            lm.tokenizer,
            template_settings=settings.get("template_settings"),
            tools=schemas,
            result_role=settings.get("tool_result_role", "auto"),
            template_describes_tools=True,
        )
        self._describes_tools = bool(schemas) and not chosen.tools and conversation_format is None
        if self._describes_tools:
            system_prompt = f"{system_prompt}\n\n{TOOLS_PLACEHOLDER}".lstrip("\n")
        super().__init__(
            lm,
            store=store,
            name=name,
            system_prompt=system_prompt,
            tools=tools,
            seed=seed,
            recorder=recorder,
            conversation_format=chosen,
            **settings,
        )
        self.awaited = AwaitedCalls()
        """The calls of the last reply, which have no results yet."""

    def create_initial_prompt(self) -> str:
        """Return the system prompt, with a description of the tools if the template has none."""
        if not self._describes_tools:
            return self._system_prompt
        documentation, how = self._tools.documentation(), self._turns.detector.instructions()
        described = f"You can call these tools:\n\n{documentation}\n\n{how}"
        return self._system_prompt.removesuffix(TOOLS_PLACEHOLDER) + described

    @property
    def turns_begun(self) -> int:
        """The number of the last turn that began; zero before the first."""
        return self.generator.turn

    def reply_to(
        self,
        messages: Sequence[ChatMessage],
        *,
        seed: int,
        settings: Mapping[str, Any],
        fit_context: bool = False,
    ) -> TurnResult:
        """Add a client's messages to the conversation, and return the reply as one round.

        A result answers a call of the last reply, by the ids of `awaited`, or one of an assistant's
        message among `messages`. `settings` are keywords of `chat`; see `ChatRequest.fit_context`.

        Raise PromptError, before anything is recorded, for a result without its call, and for
        messages that the chat template rejects.
        """
        chosen = turn_settings(self._lm.model, **{**settings, "seed": seed})
        with self._turn():
            self._bind_tools()
            new = GivenMessages(
                runner=self._turns.tools, reader=self._turns.detector.reader, awaited=self.awaited
            )
            for message in messages:
                new.add(message)
            done = self._turns.run_given(new.messages, new.results, chosen, fit_context=fit_context)
        self._turns.tools.calls_made = new.calls_made
        self.awaited = self._calls_of(done)
        return done

    def _calls_of(self, done: TurnResult) -> AwaitedCalls:
        return AwaitedCalls(
            calls=self._turns.detector.parse(done, 0),
            first_number=self._turns.tools.calls_made + 1,
            turn=done.turn,
            step=done.first_step + len(done.token_ids),
        )

    def _begin_fork(self, point: ResumePoint, forked: RunForked) -> None:
        super()._begin_fork(point, forked)
        self._await_calls_at(point)

    def _resume(self, point: ResumePoint) -> None:
        """Record that the run continues. A turn that was cut off stays so."""
        point.restore(self.generator)
        self._recorder.record(resumed_event(None, self._lm, self.generator, self._tools.sources()))
        self._await_calls_at(point)

    def _await_calls_at(self, point: ResumePoint) -> None:
        last = next((each for each in reversed(point.turns) if each.finished is not None), None)
        if last is not None:
            self.awaited = self._calls_of(recorded_result(last))


class GivenMessages:
    """Messages of a client, as they are added to the conversation of a run."""

    def __init__(self, *, runner: ToolRunner, reader: CallReader, awaited: AwaitedCalls) -> None:
        self._runner = runner
        self._reader = reader
        self._awaited = awaited
        self._open = dict(zip(awaited.ids, awaited.calls, strict=True))
        self._given: dict[str, ChatToolCall] = {}
        self.calls_made = runner.calls_made
        """Calls of the run, those with results among the messages included."""
        self.messages: list[NewMessage] = []
        self.results: list[tuple[ToolCalled, str]] = []

    def add(self, message: ChatMessage) -> None:
        """Add a message. Raise PromptError for a result without its call."""
        if message.role == TOOL:
            called = self._called(message.tool_call_id or "")
            self.results.append((called, message.content))
            self.messages.append(self._runner.message(called, message.content))
            return
        content = message.content
        self._given = {each.call_id: each for each in message.tool_calls}
        if self._given and self._runner.format.user_results is ResultStyle.TOOL_AFTER_CALL:
            if not content:
                return  # the format writes the calls before their results
        elif self._given:
            content = "\n".join(filter(None, [content, *map(self._spelled, message.tool_calls)]))
        self.messages.append(NewMessage(role=message.role, content=content))

    def _called(self, answered: str) -> ToolCalled:
        """Return the event of the call with this id, which a result answers."""
        of = self._awaited
        by_model = self._open.pop(answered, None) if not self._given else None
        if by_model is not None:
            number = of.first_number + of.ids.index(answered)
            self.calls_made = max(self.calls_made, number)
            return self._runner.called_by_model(by_model, number, turn=of.turn, step=of.step)
        given = self._given.pop(answered, None)
        if given is None:
            raise PromptError(f"the result of {answered!r} follows no call with this id")
        # No other call gets the number of one that is awaited.
        self.calls_made = max(self.calls_made, of.first_number + len(of.calls) - 1) + 1
        call = ToolCall(name=given.name, arguments=given.arguments)
        return self._runner.called_by_user(call, self.calls_made)

    def _spelled(self, call: ChatToolCall) -> str:
        """Return a call as the model writes it; as JSON if its format cannot tell."""
        return self._reader.spelled(call.name, call.arguments) or json.dumps(
            {"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False
        )
