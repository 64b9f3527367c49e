"""A conversation with a model that looks at itself, recorded as it goes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self

import torch

from tokentape.generation import fingerprints
from tokentape.generation.checks import check_count, context_tokens
from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.engine.sampling import turn_seed
from tokentape.generation.engine.turn import TurnSettings, turn_settings
from tokentape.generation.errors import PromptError
from tokentape.generation.history.context_limit import check_context_policy
from tokentape.generation.interventions import Intervention
from tokentape.generation.introspection.toolset import IntrospectionTools
from tokentape.generation.investigation.initial_prompt import initial_prompt, memory_instructions
from tokentape.generation.investigation.reply import Reply
from tokentape.generation.investigation.resume_point import (
    CHANGED_IN_FORKS,
    OF_THE_PROCESS,
    ResumePoint,
    check_settings_known,
    recorded_result,
    recorded_settings,
)
from tokentape.generation.investigation.tool_call_detector import ToolCallDetector
from tokentape.generation.investigation.turn_runner import TurnRunner
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.tools.calls import CallReader
from tokentape.generation.tools.interface import ToolInterface
from tokentape.generation.tools.runner import ToolCall, ToolRunner, result_role
from tokentape.recorder import EventLog, Recorder, Recording, Redactor, TokentapeError
from tokentape.recorder.events import RunForked, RunResumed
from tokentape.recorder.projections import Turn

# Of a model that calls and calls, the turn ends some time.
TOOL_CALLS_MAX = 8


class RunStore(EventLog, Protocol):
    """A store that runs are recorded into and read from."""

    def recording(self, run_id: str) -> Recording:
        """The run with that id, or with the one id that begins so."""


class Investigation:
    """A run: entered, it starts and caches the system prompt; left, it ends, or fails.

    The seed of each turn follows from that of the run. Errors of a request, such as a prompt that
    does not fit, are raised before anything of the turn is recorded; results of its tools are by
    then. Ctrl-C ends a turn at its next token and the run with it; `resume` goes on from there.
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
        history: str = "exact",
        at_context_limit: str = "refuse",
        context_budget_tokens: int | None = None,
        tool_calls_max: int = TOOL_CALLS_MAX,
        tool_call_format: str = "auto",
        template_settings: Mapping[str, Any] | None = None,
        redactor: Redactor | None = None,
        behaviour: Mapping[str, Any] | None = None,
        recorder: Recorder | None = None,
        **engine: Any,
    ) -> None:
        """`history` is `exact` or `template`; see `Conversation`, also for `template_settings`.

        `at_context_limit` says what becomes of a message that no longer fits into the model's
        context, or into a budget of fewer tokens: `refuse` it, or take out the oldest of the
        history and record that: `prune_tool_results` or `prune_turns`; see `plan_pruning`. Of the
        calls that the model makes in a turn, `tool_calls_max` are run; in which form it writes
        them is up to its tokenizer, or to `tool_call_format`. A `redactor` rewrites what is
        written, not what the model reads; see `recorder.redaction`. `behaviour` is recorded with
        the run. `engine` are further settings of `ManualGenerator`: prefix_folder, cache_bytes,
        threads and others.
        """
        check_context_policy(at_context_limit)
        check_count("tool_calls_max", tool_calls_max, least=0)
        if context_budget_tokens is not None:
            check_count("context_budget_tokens", context_budget_tokens)
        if redactor is not None and engine.get("prefix_folder") is not None:
            raise PromptError(
                "a prefix folder keeps the ids that a redactor withholds: give one or the other"
            )
        self._lm = lm
        self._tools = tools or ToolInterface([])
        self._inspector = tools.inspector if isinstance(tools, IntrospectionTools) else None
        calls = ToolCallDetector(
            CallReader(lm.tokenizer, self._tools, tool_call_format),
            max_calls=tool_calls_max if self._tools.names else 0,
        )
        self._system_prompt = system_prompt
        self._seed = seed
        recorded = {
            **(behaviour or {}),
            "at_context_limit": at_context_limit,
            "context_budget_tokens": context_budget_tokens,
            "tool_calls_max": calls.max_calls,
            "tool_call_format": calls.reader.format,
            "tools": list(self._tools.names),
        }
        if self._tools.names and "tool_result_role" not in recorded:
            recorded["tool_result_role"] = result_role(lm.tokenizer, template_settings)
        self._recorder = recorder or Recorder(store, redactor=redactor)
        self.generator = ManualGenerator(
            lm.model,
            lm.tokenizer,
            self._recorder,
            name=name,
            model_name=lm.name,
            seed=seed,
            identity=lm.identity,
            history=history,
            template_settings=template_settings,
            behaviour=recorded,
            resumed=recorder is not None,
            **engine,
        )
        use = ToolRunner(
            tools=self._tools,
            tokenizer=lm.tokenizer,
            recorder=self._recorder,
            context=self.generator.with_recorded_interventions,
            role=str(recorded.get("tool_result_role", "tool")),
            take_observations=self._inspector.take if self._inspector is not None else tuple,
        )
        self._loop = TurnRunner(generator=self.generator, calls=calls, use=use, behaviour=recorded)
        self._stands: ResumePoint | None = None
        self._forks: RunForked | None = None
        self.resumed_reply: Reply | None = None

    @classmethod
    def resume(
        cls,
        store: RunStore,
        run_id: str,
        lm: LoadedModel,
        *,
        tools: ToolInterface | None = None,
        **settings: Any,
    ) -> Self:
        """Go on with a run that was cut off, or that has ended.

        Entered, it finishes the turn that was under way, with the tokens that it would have had;
        that reply is `resumed_reply`, None where there was none. `settings` are those of the
        engine that no recording has: `prefix_folder`, `threads`. Tools are those that the run was
        begun with. Raises RecordingError for a damaged run, ModelError for another model,
        PromptError for a run that cannot go on.
        """
        check_settings_known(settings, OF_THE_PROCESS)
        stands = ResumePoint.of(store.recording(run_id))
        stands.refuse_what_cannot_go_on()
        stands.refuse_other_model(lm)
        recorder = Recorder.behind(store, stands.recording)
        return cls._standing(stands, store, lm, tools, recorder, settings)

    @classmethod
    def fork(
        cls,
        store: RunStore,
        run_id: str,
        lm: LoadedModel,
        *,
        at_turn: int,
        tools: ToolInterface | None = None,
        changes: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """Begin a run where another one stood before its turn `at_turn`.

        Events up to there are shared, not copied. `changes` is recorded: what is to be otherwise.
        `settings` are those of `Investigation` to be changed: `name`, `seed`, `at_context_limit`
        and others. Raises as `resume` does.
        """
        check_settings_known(settings, (*OF_THE_PROCESS, *CHANGED_IN_FORKS))
        stands = ResumePoint.of(store.recording(run_id), before_turn=at_turn)
        stands.refuse_what_cannot_go_on()
        stands.refuse_other_model(lm)
        fork = cls._standing(stands, store, lm, tools, None, settings)
        fork._forks = stands.forked(at_turn, changes or {})
        return fork

    @classmethod
    def _standing(
        cls,
        stands: ResumePoint,
        store: RunStore,
        lm: LoadedModel,
        tools: ToolInterface | None,
        recorder: Recorder | None,
        settings: Mapping[str, Any],
    ) -> Self:
        recorded = stands.settings()
        lacking = sorted(set(stands.tools) - set(tools.names if tools else ()))
        if lacking:
            raise PromptError(
                f"run {stands.recording.run_id} was begun with tools: give those that it had, "
                f"{', '.join(lacking)} among them"
            )
        system = stands.system
        run = cls(
            lm,
            store=store,
            system_prompt=system.content if system is not None else "",
            tools=tools,
            recorder=recorder,
            **(recorded | dict(settings)),
        )
        run._stands = stands
        run._loop.use.calls_made = stands.calls
        run._loop.use.recorded_results = stands.answered
        return run

    @property
    def run_id(self) -> str:
        return self._recorder.run_id

    def __enter__(self) -> Self:
        if self._inspector is not None:
            self._inspector.bind(
                ids=lambda: self.generator.conversation.ids,
                turn=lambda: max(1, self.generator.turn),
                monitor=lambda: self.generator.monitor,
            )
        try:
            if self._stands is None:
                self.generator.cache_system_prompt(self.create_initial_prompt())
            elif self._forks is not None:
                self._stands.restore(self.generator)
                self.generator.start_run()
                self._recorder.record(self._forks)
            else:
                self._resume(self._stands)
        except BaseException as error:
            self._recorder.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._inspector is not None:
            self._inspector.unbind()
        self._recorder.__exit__(error_type, error, trace)

    def chat(
        self, user_message: str, *, tool_calls: Sequence[ToolCall] = (), **settings: Any
    ) -> Reply:
        """Say something, with the results of tools beneath it, and let the model reply.

        Tools that the model calls in its reply are run, and it goes on behind what they give.
        `settings` are those of `ManualGenerator.generate`; `seed` overrides that of the turn.
        """
        settings.setdefault("seed", turn_seed(self._seed, self.generator.turn + 1))
        return self._say(user_message, tool_calls, turn_settings(self._lm.model, **settings))

    def retake(
        self,
        turn: Turn,
        *,
        message: str | None = None,
        tool_calls: Sequence[ToolCall] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Take a turn of another run as it was taken there, but for the changes of its settings.

        Its seed is one of these. `message` is said instead of what was said there.
        """
        changed = dict(changes or {})
        seed = changed.pop("seed", None)
        chosen = recorded_settings(turn, changed)
        if chosen.config.do_sample and (seed is not None or chosen.seed is None):
            own = turn_seed(self._seed, self.generator.turn + 1)
            chosen = replace(chosen, seed=own if seed is None else seed)
        said = next((each.content for each in turn.messages if each.role == "user"), "")
        return self._say(said if message is None else message, tool_calls, chosen)

    def _say(
        self, user_message: str, tool_calls: Sequence[ToolCall], chosen: TurnSettings
    ) -> Reply:
        if not self._recorder.started:
            raise TokentapeError("the investigation has not begun: enter it with `with`")
        if not user_message.strip():
            raise PromptError("the message is empty: there is nothing to reply to")
        return self._loop.take_turn(user_message, tool_calls, chosen)

    def watch(self, layers: Iterable[str | int], *, full: bool = False) -> None:
        """Record statistics of what layers give; see `ManualGenerator.watch`.

        Tools that look at activations see them, too.
        """
        self.generator.watch(layers, full=full)

    def unwatch(self) -> None:
        """Look at no layer any more."""
        self.generator.unwatch()

    def intervene(self, intervention: Intervention, *, clear_cache: bool = False) -> None:
        """See `ManualGenerator.intervene`."""
        self.generator.intervene(intervention, clear_cache=clear_cache)

    def withdraw(self, name: str, *, clear_cache: bool = False) -> None:
        """See `ManualGenerator.withdraw`."""
        self.generator.withdraw(name, clear_cache=clear_cache)

    def _resume(self, stands: ResumePoint) -> None:
        """Say that the run goes on, and finish the turn that was under way."""
        opened = stands.open_turn
        prompt = stands.restore(self.generator, goes_on=opened is not None)
        identity = self._lm.identity
        self._recorder.record(
            RunResumed(
                turn=None if opened is None else opened.number,
                step=None if opened is None else opened.first_step + len(opened.tokens),
                weights_sha256=identity.weights_sha256_for(stands.started),
                sampler_sha256=fingerprints.sampler_sha256(),
                device=self._lm.model.device.type,
                threads=torch.get_num_threads(),
                environment=fingerprints.environment(),
            )
        )
        if not stands.turns:
            return
        before = [each for each in stands.turns if each.number == stands.last_turn]
        made = sum(len(each.messages) for each in before if each.first_step)
        parts = [recorded_result(each) for each in before if each.finished is not None]
        chosen = recorded_settings(before[-1])
        if opened is not None and prompt is not None:
            parts.append(self._loop.resume_part(opened, prompt, chosen, made))
        elif before[-1].finished is None or not self._loop.calls.parse(parts[-1], made):
            return
        self.resumed_reply = self._loop.go_on(parts, chosen, made=made)

    def create_initial_prompt(self) -> str:
        """What the model is told first: the system prompt, `{tools}` and `{memory}` in it filled.

        It is cached once; the template is never given it again.
        """
        return initial_prompt(
            self._system_prompt,
            tools=self._told_of_tools(),
            memory=self.get_memory_management_instructions(),
        )

    def _told_of_tools(self) -> str:
        """What there is to call, and how, where the model may call."""
        told = [self._tools.documentation()]
        if self._loop.calls.max_calls:
            told.append(self._loop.calls.reader.instructions())
        return "\n\n".join(filter(None, told))

    def get_memory_management_instructions(self) -> str:
        """How the model is to spare its context: compact views of several layers."""
        schemas = self._tools.get_available_tools()
        return memory_instructions(schemas, context_tokens(self._lm.model))
