"""A generator for one model, with its KV cache and its conversation."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Unpack

from transformers import LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteriaList

from tokentape.generation import hf
from tokentape.generation.cache import CachedPrefix, PrefixCache, prefix_folder_at
from tokentape.generation.callbacks import StateObserver, TokenCallback
from tokentape.generation.checks import check_adapters, check_not_training, check_text
from tokentape.generation.engine.engine import Engine
from tokentape.generation.engine.prefill import ids_tensor
from tokentape.generation.engine.run_description import RunDescription
from tokentape.generation.engine.run_numerics import RunNumerics
from tokentape.generation.engine.running_turn import RunningTurn, StoppedTurn
from tokentape.generation.engine.single_use import SingleUse
from tokentape.generation.engine.turn import (
    GenerationResult,
    RoundPlan,
    TurnResult,
    TurnSettings,
    turn_settings,
)
from tokentape.generation.engine.turn_keywords import TURN_DEFAULTS, GenerationKeywords
from tokentape.generation.errors import ModelError, PromptError, UnreplayableWarning
from tokentape.generation.history.chosen_tokens import encode_reply_prefix
from tokentape.generation.history.conversation import Conversation
from tokentape.generation.history.conversation_format import ConversationFormat
from tokentape.generation.history.format_probe import choose_format
from tokentape.generation.history.prompt import Prompt
from tokentape.generation.interventions import Intervention
from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.generation.models.identity import ModelIdentity
from tokentape.generation.run_settings import GeneratorKeywords, RunSettings, setting_defaults
from tokentape.recorder import Recorder, TokentapeError
from tokentape.recorder.events import RunForked
from tokentape.recorder.listed_keywords import lists_keywords
from tokentape.recorder.projections import RequestedInterventions, Turn
from tokentape.recorder.short_forms import short_repr


class ManualGenerator:
    """A token-by-token generator that reuses cached prefixes and records its steps.

    A prompt is a string, which becomes one user message after the cached system prompt (plain text
    if the tokenizer has no chat template), or token ids, which are used unchanged. Settings and
    their defaults are those of `model.generate`.

    Example:
        >>> import tokentape as tt
        >>> generator = tt.ManualGenerator(lm.model, lm.tokenizer)
        >>> generator.cache_system_prompt("You are brief.")
        >>> result = generator.generate("Hello", max_new_tokens=4, do_sample=False)
        >>> result["num_tokens"], result["cache_used"]
        (4, True)
    """

    @lists_keywords(setting_defaults())
    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        recorder: Recorder | None = None,
        *,
        name: str = "generation",
        model_name: str = "",
        seed: int | None = None,
        identity: ModelIdentity | None = None,
        run: RunDescription | None = None,
        **settings: Unpack[GeneratorKeywords],
    ) -> None:
        """Set up a generator; `settings` are those of `RunSettings` that concern one.

        `name`, `model_name` and `seed` are recorded; `run` may be given in place of these and of
        the settings. A recorder that was resumed needs a `run` that says so, and `restore`.

        Raise ModelError for a model in training mode (dropout cannot be replayed), one without a
        cache, and a setting that is not allowed. Raise TokentapeError for a recorder that has
        recorded already: a run has one generator.
        """
        if run is None:
            known = GeneratorKeywords.__annotations__
            chosen = RunSettings.from_keywords(
                settings, model, owner="ManualGenerator", known=known
            )
            run = RunDescription(
                name=name,
                model=model_name,
                seed=seed,
                settings=chosen,
                conversation_format=_format(tokenizer, chosen),
            )
        elif settings:
            raise TypeError(f"give {', '.join(settings)} in the settings of run=")
        if recorder is not None and recorder.started and not run.resumed:
            raise TokentapeError("this recorder has a run already: make one for each generator")
        check_text("name", run.name)
        check_text("model_name", run.model)
        check_not_training(model)
        check_adapters(model)
        hf.check_release(model)
        self.model = model
        self.tokenizer = tokenizer
        self.conversation = Conversation(
            tokenizer,
            history=run.settings.history,
            template_settings=run.settings.template_settings,
            conversation_format=run.conversation_format,
        )
        self._use = SingleUse("generator")
        self._is_recorded = recorder is not None
        self._warned_of: set[str] = set()
        identity = identity or ModelIdentity(model, tokenizer)
        self._cache = PrefixCache(
            model,
            identity,
            budget_bytes=run.settings.cache_bytes,
            folder=prefix_folder_at(run.settings.prefix_folder),
        )
        self._engine = Engine(
            model, tokenizer, recorder, identity=identity, cache=self._cache, run=run
        )

    def __repr__(self) -> str:
        facts = f"turn {self.turn}, {self.kv_bytes / 1024**2:.1f} MiB of KV cache"
        return short_repr(self, f"of {type(self.model).__name__}:", facts)

    @property
    def numerics(self) -> RunNumerics:
        """The threads and the flags of torch that turns are computed with."""
        return self._engine.numerics

    @property
    def turn(self) -> int:
        """The number of the last turn that was started; zero before the first."""
        return self._engine.turn

    @property
    def kv_bytes(self) -> int:
        """Bytes of storage of the cached sequences; shared storage counts once."""
        return self._cache.kv_bytes

    @property
    def system_prompt_cache(self) -> CachedPrefix | None:
        """A copy of the cached system prompt, its ids and its KV cache; None if it is not cached.

        It is None before `cache_system_prompt`, after `clear_cache`, and for a model whose cache
        cannot be copied. Raise TokentapeError in a callback of a turn.
        """
        return self._engine.copy_prefix(self.conversation.system_ids)

    @property
    def system_prompt_length(self) -> int:
        """Tokens of the cached system prompt; zero if it is not cached."""
        ids = self.conversation.system_ids
        return len(ids) if self._engine.holds_prefix(ids) else 0

    def start_run(self) -> None:
        """Record `RunStarted` if nothing is recorded yet. The first turn does it, too."""
        self._engine.start_run()

    def fork_from(self, forked: RunForked) -> None:
        """Let the run begin as a fork: `forked` follows `RunStarted` when that is recorded."""
        self._engine.forked = forked

    def cache_system_prompt(self, system_prompt: str) -> None:
        """Start a new conversation with a system prompt, and prefill it once for all turns.

        Nothing is forwarded if the model's cache cannot be reused, or if the template writes the
        system prompt only together with the first message. Raise PromptError, and change nothing,
        if the system prompt is empty or fills the model's context.
        """
        check_text("a system prompt", system_prompt)
        if not system_prompt.strip():
            raise PromptError("the system prompt is empty")
        conversation = self.conversation.fresh()
        conversation.restart(system_prompt)
        self._engine.process_system_prompt(system_prompt, conversation.ids, conversation.text)
        self.conversation = conversation

    def begin_without_system_prompt(self) -> None:
        """Start a new conversation that has no system prompt."""
        conversation = self.conversation.fresh()
        conversation.restart("")
        self._engine.process_system_prompt("", conversation.ids, conversation.text)
        self.conversation = conversation

    @lists_keywords(TURN_DEFAULTS)
    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 100,
        temperature: float | None = None,
        top_p: float | None = None,
        do_sample: bool | None = None,
        use_cache: bool = True,
        seed: int | None = None,
        callback: TokenCallback | None = None,
        observer: StateObserver | None = None,
        observe_layers: Sequence[str | int] = (),
        past_key_values: CachedPrefix | None = None,
        return_cache: bool = False,
        reply_prefix: str = "",
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        **settings: Unpack[GenerationKeywords],
    ) -> GenerationResult:
        """Generate a reply to one prompt; earlier calls are not part of it. Return the reply.

        `use_cache=False` computes the whole prompt. `seed` seeds the random generator of this call;
        without one it is drawn and returned. torch's global generator is never used. `callback` is
        called with each token id and its raw logits, float32 of shape (vocab,). `observer` is
        called with the `GenerationState` after each token, which has the hidden states of
        `observe_layers` (names as in `find_layer`). `return_cache=True` returns the KV cache of
        prompt and reply as `past_key_values`; the argument of that name reuses such a cache, as far
        as its ids are a prefix of the prompt. `reply_prefix` begins the reply: its tokens are
        recorded as the experimenter's, and `max_new_tokens` counts them.

        Raise PromptError or ModelError before anything is generated or recorded.
        """
        given: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "do_sample": do_sample}
        named = {name: value for name, value in given.items() if value is not None}
        chosen = turn_settings(
            self.model,
            max_new_tokens=max_new_tokens,
            seed=seed,
            use_cache=use_cache,
            callback=callback,
            observer=observer,
            observe_layers=observe_layers,
            past_key_values=past_key_values,
            return_cache=return_cache,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            **named,
            **settings,
        )
        self.warn_of_replay_limits(chosen)
        with self._use.use():
            own = self.conversation.own_prompt(prompt)
            forced_ids = encode_reply_prefix(self.tokenizer, own.text, reply_prefix)
            result = self.run_turn(own, chosen, RoundPlan(forced_ids=forced_ids))
        return GenerationResult(
            generated_text=result.text,
            generated_tokens=list(result.token_ids),
            num_tokens=len(result.token_ids),
            cache_used=result.cache.reused_tokens > 0,
            stop_reason=result.stop_reason,
            seed=result.seed,
            prompt_tokens=result.cache.prompt_tokens,
            cache=result.cache,
            past_key_values=result.past_key_values,
        )

    def check_turn(
        self, prompt: Prompt, settings: TurnSettings, plan: RoundPlan | None = None
    ) -> None:
        """Raise PromptError or ModelError if a turn with this prompt cannot begin."""
        self._engine.check_turn(prompt, settings, plan or RoundPlan())

    def warn_of_replay_limits(self, settings: TurnSettings) -> None:
        """Warn, once for each reason, if the recording of a new turn cannot be replayed whole.

        Raise ModelError for settings that no turn can have: those are no reason to warn.
        """
        text = settings.replay_limits(known=self._warned_of) if self._is_recorded else ""
        if text:
            ids = ids_tensor((0,), self.model.device)
            hf.check_settings(self.model, self.tokenizer, settings.config, ids)
            self._warned_of.update(settings.unreplayable)
            warnings.warn(text, UnreplayableWarning, stacklevel=4)

    def run_turn(
        self, prompt: Prompt, settings: TurnSettings, plan: RoundPlan | None = None
    ) -> TurnResult:
        """Generate the reply to a prompt of the conversation; see `Engine.begin_turn`."""
        system_ids = self.conversation.system_ids
        begun = self._engine.begin_turn(
            prompt, settings, plan or RoundPlan(), system_ids=system_ids
        )
        with begun as turn:
            return self._run(turn, prompt)

    def restore(
        self,
        turns: Sequence[Turn],
        conversation: Conversation,
        asked: RequestedInterventions,
        read_blob: Callable[[str], bytes] | None = None,
    ) -> None:
        """Put the generator into the state it had after these recorded turns.

        `conversation` is restored from the same turns. `read_blob` reads the tensors of the
        requested interventions; see `InterventionController.restore`.
        """
        self._engine.restore(turns, asked, read_blob)
        self.conversation = conversation

    def resume_turn(
        self,
        turn: Turn,
        prompt: Prompt,
        settings: TurnSettings,
        plan: RoundPlan | None = None,
        *,
        forked: Prompt | None = None,
    ) -> TurnResult:
        """Finish a round that was cut off in another process; see `Engine.resume_turn`."""
        plan = plan or RoundPlan(first_step=turn.first_step)
        system_ids = self.conversation.system_ids
        resumed = self._engine.resume_turn(
            turn, prompt, settings, plan, system_ids=system_ids, forked=forked
        )
        with resumed as running:
            return self._run(running, prompt)

    def _run(self, turn: RunningTurn | StoppedTurn, prompt: Prompt) -> TurnResult:
        self.conversation.begin_turn(prompt)
        result = turn.run()
        self.conversation.finish_turn(result.token_ids, result.text, result.stop_text)
        return result

    def watch(self, layers: Iterable[str | int], *, full: bool = False) -> ActivationMonitor:
        """Record statistics of the outputs of layers, for every forward from the next turn on.

        Name a layer by its number, its full name or its TransformerLens name; see `find_layer`.
        `full` adds slower statistics. Raise ToolError for an unknown layer.
        """
        self._engine.monitor = ActivationMonitor(self.model, layers, full=full)
        return self._engine.monitor

    @property
    def monitor(self) -> ActivationMonitor | None:
        """The monitor that `watch` installed, if any."""
        return self._engine.monitor

    def unwatch(self) -> None:
        """Stop recording statistics of layers."""
        self._engine.monitor = None

    def with_recorded_interventions(self) -> AbstractContextManager[None]:
        """Within this context, forward the conversation under its recorded interventions.

        Each position gets the interventions that were active when its states were first computed.
        """
        return self._engine.interventions.with_recorded_interventions()

    def fork(self) -> Conversation:
        """Return an independent continuation of the conversation, for `switch`."""
        return self.conversation.fork()

    def switch(self, conversation: Conversation) -> Conversation:
        """Continue with another conversation. Return the current one, to switch back to.

        Both stay in the cache, as far as its budget allows.
        """
        if not isinstance(conversation, Conversation):
            raise ModelError(f"switch() takes a conversation, not a {type(conversation).__name__}")
        before = self.conversation.fork()
        conversation.follow(self.conversation)
        self.conversation = conversation
        return before

    def store_prefix(self) -> bool:
        """Write the cached prompt and reply of the last turn to disk, for other processes.

        Return False if there is no `prefix_folder`, if nothing is cached, or if the cache cannot be
        written as a file. Raise OSError if the folder is not writable.
        """
        return self._engine.store_prefix(self.conversation.ids)

    def intervene(self, intervention: Intervention, *, clear_cache: bool = False) -> None:
        """Change the outputs of layers from the next turn on.

        The history keeps the states that were computed for it. With `clear_cache` the cache is
        cleared, and the next turn computes its whole prompt with the intervention, where its
        positions allow that. Raise ModelError or ToolError, and change nothing, if the intervention
        does not fit the model or its name is in use.
        """
        self._engine.intervene(intervention, clear_cache=clear_cache)

    def withdraw(self, name: str, *, clear_cache: bool = False) -> None:
        """End an intervention from the next turn on; with `clear_cache`, on all of its prompt."""
        self._engine.withdraw(name, clear_cache=clear_cache)

    def clear_cache(self, reason: str = "asked") -> None:
        """Free the whole KV cache, the system prompt's too."""
        self._engine.clear_cache(reason)


def _format(tokenizer: PreTrainedTokenizerBase, settings: RunSettings) -> ConversationFormat:
    """Return the format that the chat template takes, the usual one if it takes none."""
    try:
        return choose_format(tokenizer, template_settings=settings.template_settings)
    except PromptError:
        return ConversationFormat()
