"""A recorded conversation with a model that may inspect itself."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self, Unpack, cast

from tokentape.generation.checks import check_switch
from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.engine.turn import TurnSettings, turn_settings
from tokentape.generation.engine.turn_keywords import TURN_DEFAULTS, TurnKeywords
from tokentape.generation.errors import PromptError
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.interventions import Intervention
from tokentape.generation.introspection.toolset import IntrospectionTools
from tokentape.generation.investigation.initial_prompt import initial_prompt, memory_instructions
from tokentape.generation.investigation.lifecycle import RunLifecycle
from tokentape.generation.investigation.recorded_settings import changed_settings
from tokentape.generation.investigation.reply import Reply
from tokentape.generation.investigation.resume_point import (
    ResumePoint,
    resumed_event,
)
from tokentape.generation.investigation.run_setup import describe_run, tool_runner
from tokentape.generation.investigation.token_fork import TokenFork, check_at_token
from tokentape.generation.investigation.tool_call_detector import ToolCallDetector
from tokentape.generation.investigation.turn_runner import TurnRunner
from tokentape.generation.investigation.unshared_interventions import (
    warn_of_unshared_interventions,
)
from tokentape.generation.models.loading import LoadedModel
from tokentape.generation.run_settings import (
    FORKABLE,
    OF_THE_PROCESS,
    ForkKeywords,
    InvestigationKeywords,
    ResumeKeywords,
    RunSettings,
    check_may_change,
    setting_defaults,
)
from tokentape.generation.tools.calls import CallReader
from tokentape.generation.tools.interface import ToolInterface
from tokentape.generation.tools.tool_call import ToolCall
from tokentape.recorder import EventLog, Recorder, Recording, Redactor
from tokentape.recorder.derived_seeds import turn_seed
from tokentape.recorder.events import RunForked
from tokentape.recorder.events.run import FORK_CONTINUES
from tokentape.recorder.listed_keywords import lists_keywords
from tokentape.recorder.plain_values import plain_number, plain_value, plain_whole
from tokentape.recorder.projections import Turn


class RunStore(EventLog, Protocol):
    """A store that runs are recorded into and read from."""

    def recording(self, run_id: str) -> Recording:
        """Return the run with this id, or the only one whose id begins so."""


class Investigation(RunLifecycle):
    """A recorded conversation with a model that may use tools on itself.

    Entering it starts the run and caches the system prompt; leaving it ends the run, as failed if
    an exception leaves the block. The seed of each turn follows from that of the run. A request
    that cannot be met, such as a prompt that does not fit, raises before anything of its turn is
    recorded, except for the results of its tool calls; a fork then leaves no run. Ctrl-C, SIGTERM
    and SIGHUP end turn and run after the next token; `resume` continues there.

    Example:
        >>> import tokentape as tt
        >>> with tt.Investigation(lm, store=store, name="probe", system_prompt="Be brief.") as run:
        ...     reply = run.chat("Hello", max_new_tokens=3, do_sample=False)
        >>> len(reply.token_ids), str(reply.cache.decision)
        (3, 'hit')
    """

    @lists_keywords(setting_defaults())
    def __init__(
        self,
        lm: LoadedModel,
        *,
        store: EventLog,
        name: str,
        system_prompt: str,
        tools: ToolInterface | None = None,
        seed: int = 0,
        redactor: Redactor | None = None,
        recorder: Recorder | None = None,
        conversation_format: ConversationFormat | None = None,
        **settings: Unpack[InvestigationKeywords],
    ) -> None:
        """Set up a run; nothing is recorded until it is entered.

        `{tools}` and `{memory}` in the `system_prompt` are replaced by descriptions of the tools
        and of the context; "" begins a conversation without one. A `redactor` rewrites each text
        that is recorded, not what the model reads; see `tokentape.recorder.redaction`. `recorder`
        and `conversation_format` are those of a recorded run that is continued. The settings are
        those of `RunSettings`.

        Raise PromptError if the chat template can write no conversation, or no results of tools.
        """
        known = InvestigationKeywords.__annotations__
        given = RunSettings.from_keywords(settings, lm.model, owner="Investigation", known=known)
        if redactor is not None and given.prefix_folder is not None:
            raise PromptError(
                "a prefix folder keeps the ids that a redactor withholds: give one or the other"
            )
        self._lm = lm
        self._tools = tools or ToolInterface([])
        self._inspector = tools.inspector if isinstance(tools, IntrospectionTools) else None
        self._system_prompt = system_prompt
        self._seed = plain_number(seed)
        super().__init__(recorder or Recorder(store, redactor=redactor), store, name)
        reader = CallReader(
            lm.tokenizer,
            self._tools,
            given.tool_call_format,
            template_settings=given.template_settings,
        )
        run = describe_run(
            lm,
            reader,
            self._tools,
            name=name,
            seed=seed,
            settings=given,
            conversation_format=conversation_format,
            system_prompt=system_prompt,
            resumed=recorder is not None,
        )
        self.generator = ManualGenerator(
            lm.model, lm.tokenizer, self._recorder, identity=lm.identity, run=run
        )
        self._turns = TurnRunner(
            generator=self.generator,
            detector=ToolCallDetector(reader, max_calls=run.settings.tool_calls_max),
            tools=tool_runner(self.generator, self._tools, self._recorder, run.conversation_format),
            run_settings=run.settings,
        )
        self.resume_point: ResumePoint | None = None
        """Where a resumed or forked run continues."""
        self._forked: RunForked | None = None
        self._token_fork: TokenFork | None = None
        self.resumed_reply: Reply | None = None

    @classmethod
    @lists_keywords(setting_defaults())
    def resume(
        cls,
        store: RunStore,
        run_id: str,
        lm: LoadedModel,
        *,
        tools: ToolInterface | None = None,
        **settings: Unpack[ResumeKeywords],
    ) -> Self:
        """Return a recorded run, interrupted or ended, to continue with.

        Entering it finishes the turn that was interrupted, with the tokens that it would have had;
        `resumed_reply` is that reply, or None if no turn was open. `tools` must include those of
        the run.

        Raise RecordingError for a damaged run, ModelError for another model than the recorded one,
        and PromptError for a run that cannot be continued.
        """
        check_may_change(settings, OF_THE_PROCESS)
        point = ResumePoint.of(store.recording(run_id))
        point.check_can_continue()
        point.check_same_model(lm)
        recorder = Recorder.resume(store, point.recording)
        keywords = point.settings.as_keywords() | cast("InvestigationKeywords", settings)
        return cls._at(point, store, lm, tools=tools, recorder=recorder, keywords=keywords)

    @classmethod
    @lists_keywords({})
    def fork(
        cls,
        store: RunStore,
        run_id: str,
        lm: LoadedModel,
        *,
        at_turn: int,
        at_token: int | None = None,
        token: str | int | None = None,
        tools: ToolInterface | None = None,
        changes: Mapping[str, Any] | None = None,
        other_model: bool = False,
        **settings: Unpack[ForkKeywords],
    ) -> Self:
        """Return a new run that shares the turns of another one before its turn `at_turn`.

        The shared events are not copied. `changes` are recorded as what the fork is meant to
        change. `settings` override those of the parent; `name` and `seed` are among them. Raise as
        `resume` does. Warn of interventions that the parent requested right before that turn.

        With `at_token`, the fork shares that turn, too, up to this token of its reply, counted from
        zero. Entering it finishes the reply, `resumed_reply`: with `token` (a text or an id) next,
        recorded as the experimenter's, or with a sampled one. `changes` are settings of `generate`
        for the rest. Each token uses the draw of the random stream that it has in the parent.

        `other_model` allows a model with other weights and the same tokenizer: the fork says what
        differs, and replays check only its own turns with it.
        """
        check_may_change(settings, (*OF_THE_PROCESS, "name", "seed", *FORKABLE))
        at_turn, at_token = plain_whole(at_turn), check_at_token(at_token, token)
        point = ResumePoint.of(store.recording(run_id), before_turn=at_turn, before_token=at_token)
        point.check_can_continue()
        others = point.check_same_model(lm, other_model=check_switch("other_model", other_model))
        changed = dict(settings)
        name, seed = changed.pop("name", None), changed.pop("seed", None)
        keywords = point.settings.as_keywords() | cast("InvestigationKeywords", changed)
        fork = cls._at(
            point,
            store,
            lm,
            tools=tools,
            recorder=None,
            keywords=keywords,
            name=cast("str | None", name),
            seed=cast("int | None", seed),
        )
        changes = plain_value(changes or {})
        chosen = {} if token is None else {"token": token}
        fork._forked = point.fork_event(
            at_turn, {**changes, **chosen}, at_token=at_token, other_model=others
        )
        if at_token is None:
            warn_of_unshared_interventions(point.unshared_interventions, at_turn)
        else:
            of_turn = {name: each for name, each in changes.items() if name != FORK_CONTINUES}
            fork._token_fork = point.fork_at_token(lm, token, of_turn, fork._seed)
        return fork

    @classmethod
    def _at(
        cls,
        point: ResumePoint,
        store: RunStore,
        lm: LoadedModel,
        *,
        tools: ToolInterface | None,
        recorder: Recorder | None,
        keywords: InvestigationKeywords,
        name: str | None = None,
        seed: int | None = None,
    ) -> Self:
        """Return a run that continues at the point; `recorder` is that of a resumed run."""
        point.check_has_tools(tools)
        system = point.system
        run = cls(
            lm,
            store=store,
            name=point.started.name if name is None else name,
            system_prompt=system.content if system is not None else "",
            tools=tools,
            seed=(point.started.seed or 0) if seed is None else seed,
            recorder=recorder,
            conversation_format=point.conversation_format,
            **keywords,
        )
        run.resume_point = point
        run._turns.tools.calls_made = point.calls_made
        run._turns.tools.recorded_results = point.unread_results
        return run

    def _facts(self) -> list[tuple[str, object]]:
        return [
            ("turns", self.generator.turn),
            ("model", self._lm.name),
            ("tools", ", ".join(self._tools.names)),
            ("tokens of the conversation", len(self.generator.conversation.ids)),
        ]

    def _begin(self) -> None:
        self._bind_tools()
        if self.resume_point is None:
            self._begin_conversation()
        elif self._forked is not None:
            self._begin_fork(self.resume_point, self._forked)
        else:
            self._resume(self.resume_point)

    def _bind_tools(self) -> None:
        """Let the tools see this conversation, which another run with the same tools may follow."""
        if self._inspector is not None:
            self._inspector.bind_to(self.generator)

    def _begin_conversation(self) -> None:
        if system_prompt := self.create_initial_prompt():
            self.generator.cache_system_prompt(system_prompt)
        else:
            self.generator.begin_without_system_prompt()

    def _before_end(self) -> None:
        if self._inspector is not None:
            self._inspector.unbind_from(self.generator)
        self.generator.start_run()  # a fork without a turn of its own

    @lists_keywords(TURN_DEFAULTS)
    def chat(
        self,
        user_message: str,
        *,
        tool_calls: Sequence[ToolCall] = (),
        reply_prefix: str = "",
        **settings: Unpack[TurnKeywords],
    ) -> Reply:
        """Send a user's message, with the results of `tool_calls` after it. Return the reply.

        Tools that the model calls in its reply are run, and it continues with their results.
        `settings` are those of `ManualGenerator.generate`; without a `seed` that of the turn
        follows from the run's. The reply begins with `reply_prefix`, which its text includes.
        """
        settings.setdefault("seed", turn_seed(self._seed, self.generator.turn + 1))
        chosen = turn_settings(self._lm.model, **settings)
        return self._run_turn(user_message, tool_calls, chosen, reply_prefix)

    def retake(
        self,
        turn: Turn,
        *,
        message: str | None = None,
        tool_calls: Sequence[ToolCall] = (),
        changes: Mapping[str, Any] | None = None,
        reply_prefix: str | None = None,
    ) -> Reply:
        """Run a turn of another run again, with its settings and seed. Return the reply.

        `changes` override settings of the turn, its `seed` among them; `message` replaces the
        user's message, `reply_prefix` the tokens that the experimenter chose to begin the reply.
        """
        derived = turn_seed(self._seed, self.generator.turn + 1)
        settings = changed_settings(turn, changes or {}, derived_seed=derived)
        if message is None:
            message = next((each.content for each in turn.messages if each.role == "user"), "")
        prefix = turn.started.forced_ids if reply_prefix is None else reply_prefix
        return self._run_turn(message, tool_calls, settings, prefix)

    def _run_turn(
        self,
        user_message: str,
        tool_calls: Sequence[ToolCall],
        settings: TurnSettings,
        reply_prefix: str | tuple[int, ...],
    ) -> Reply:
        if not user_message.strip():
            raise PromptError("the message is empty: there is nothing to reply to")
        with self._turn():
            self._bind_tools()
            return self._turns.run_turn(user_message, tool_calls, settings, reply_prefix)

    def watch(self, layers: Iterable[str | int], *, full: bool = False) -> None:
        """Record statistics of the outputs of layers; see `ManualGenerator.watch`.

        The tools that show activations use them, too.
        """
        self.generator.watch(layers, full=full)

    def unwatch(self) -> None:
        """Stop recording statistics of layers."""
        self.generator.unwatch()

    def intervene(self, intervention: Intervention, *, clear_cache: bool = False) -> None:
        """Request an intervention; see `ManualGenerator.intervene`."""
        self.generator.intervene(intervention, clear_cache=clear_cache)

    def withdraw(self, name: str, *, clear_cache: bool = False) -> None:
        """Withdraw an intervention; see `ManualGenerator.withdraw`."""
        self.generator.withdraw(name, clear_cache=clear_cache)

    def _resume(self, point: ResumePoint) -> None:
        """Record that the run continues, and finish its open turn."""
        opened = point.open_turn
        prompt = point.restore(self.generator, to_open_turn=opened is not None)
        sources = self._tools.sources()
        self._recorder.record(resumed_event(opened, self._lm, self.generator, sources))
        if point.turns:
            self.resumed_reply = self._turns.finish_turn(point.turns, prompt)

    def _begin_fork(self, point: ResumePoint, forked: RunForked) -> None:
        """Let the run begin as a fork, and finish the turn that it forked within, if any."""
        within = self._token_fork
        prompt = point.restore(self.generator, to_open_turn=within is not None)
        self.generator.fork_from(forked)
        if within is not None:
            self.resumed_reply = self._turns.finish_turn(point.turns, prompt, forked=within)

    def create_initial_prompt(self) -> str:
        """Return the system prompt with `{tools}` and `{memory}` in it filled."""
        texts = (self._tools.documentation(), self._turns.detector.instructions())
        return initial_prompt(
            self._system_prompt,
            tools="\n\n".join(filter(None, texts)),
            memory=self.get_memory_management_instructions(),
        )

    def get_memory_management_instructions(self) -> str:
        """Return how the model can save context: the compact views of several layers."""
        schemas = self._tools.get_available_tools()
        return memory_instructions(schemas, self._turns.run_settings.context_of(self._lm.model))
