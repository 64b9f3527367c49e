"""What users hold: a model, its cache, and a conversation that begins with a system prompt."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Unpack

from transformers import LogitsProcessorList, PreTrainedTokenizerBase, StoppingCriteriaList

from tokentape.generation.cache import CachedPrefix, PrefixCache, PrefixFolder
from tokentape.generation.callbacks import StateObserver, TokenCallback
from tokentape.generation.checks import check_not_training, check_seed, check_text
from tokentape.generation.engine.engine import Engine
from tokentape.generation.engine.run_description import RunDescription
from tokentape.generation.engine.running_turn import RunningTurn, StoppedTurn
from tokentape.generation.engine.turn import (
    GenerationResult,
    RoundPlan,
    TurnResult,
    TurnSettings,
    turn_settings,
)
from tokentape.generation.errors import ModelError, PromptError
from tokentape.generation.history.conversation import Conversation, Prompt
from tokentape.generation.interventions import Intervention
from tokentape.generation.introspection.activations import ActivationMonitor
from tokentape.generation.models.identity import ModelIdentity
from tokentape.generation.run_settings import GeneratorKeywords, RunSettings
from tokentape.recorder import Recorder, TokentapeError
from tokentape.recorder.projections import RequestedInterventions, Turn


class ManualGenerator:
    """Generates token by token, reuses what is cached, and records each step if asked to.

    A prompt is a string, which is one user message after the cached system prompt (plain text
    where the tokenizer has no chat template), or token ids, which are taken as they are.
    Settings mean what they mean in `model.generate`, and those that are left out do, too.
    """

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
            chosen = RunSettings.from_keywords(settings, owner="ManualGenerator", known=known)
            run = RunDescription(name=name, model=model_name, seed=seed, settings=chosen)
        elif settings:
            raise TypeError(f"give {', '.join(settings)} with the run, not beside it")
        if recorder is not None and recorder.started and not run.resumed:
            raise TokentapeError("this recorder has a run already: make one for each generator")
        check_seed(run.seed)
        check_text("name", run.name)
        check_text("model_name", run.model)
        check_not_training(model)
        self.model = model
        self.tokenizer = tokenizer
        self.conversation = Conversation(
            tokenizer,
            history=run.settings.history,
            template_settings=run.settings.template_settings,
        )
        identity = identity or ModelIdentity(model, tokenizer)
        self._cache = PrefixCache(
            model,
            identity,
            budget_bytes=run.settings.cache_bytes,
            folder=_folder(run.settings.prefix_folder),
        )
        self._engine = Engine(
            model, tokenizer, recorder, identity=identity, cache=self._cache, run=run
        )

    @property
    def turn(self) -> int:
        """The number of the last turn that began; zero before the first."""
        return self._engine.turn

    @property
    def kv_bytes(self) -> int:
        """Bytes of storage that cached sequences hold, each storage once."""
        return self._cache.kv_bytes

    def start_run(self) -> None:
        """Record what the run is, unless that was done. The first thing recorded does it, too."""
        self._engine.start_run()

    def cache_system_prompt(self, system_prompt: str) -> None:
        """Process the system prompt once; every later prompt begins with it and reuses it.

        Begins a new conversation. Raises PromptError for an empty one or one that fills the
        model's context, and leaves everything as it was. Where the model's cache cannot be reused,
        or the template writes nothing before a user's message, nothing is processed yet.
        """
        check_text("a system prompt", system_prompt)
        if not system_prompt.strip():
            raise PromptError("the system prompt is empty")
        conversation = self.conversation.fresh()
        conversation.restart(system_prompt)
        self._engine.process_system_prompt(system_prompt, conversation.ids, conversation.text)
        self.conversation = conversation

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
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        **settings: Any,
    ) -> GenerationResult:
        """Generate from a prompt of its own: what was said in earlier calls is not part of it.

        `use_cache=False` computes the whole prompt anew. `seed` begins the random generator of
        this call (one is drawn and returned if it is left out); torch's own is never touched.
        `callback` sees each token id and its raw logits, float32 of shape (vocab,); `observer`
        sees the `GenerationState` after each token, with the hidden states of `observe_layers`, as
        named in `find_layer`. `return_cache=True` puts the cache of prompt and reply, with its ids,
        under `past_key_values` of the result; the argument of that name takes one in, and as much
        of it is reused as begins the prompt.
        Raises PromptError and ModelError before anything is generated or recorded.
        """
        given = {"temperature": temperature, "top_p": top_p, "do_sample": do_sample}
        settings |= {name: value for name, value in given.items() if value is not None}
        result = self.take_turn(
            self.conversation.own_prompt(prompt),
            turn_settings(
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
                **settings,
            ),
        )
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

    def take_turn(
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
        """Go on behind recorded turns, of which the conversation is what they left.

        `asked` is what interventions are asked for; `read_blob` gives their tensors: see
        `Steering.restore`.
        """
        self._engine.restore(turns, asked, read_blob)
        self.conversation = conversation

    def resume_turn(
        self, turn: Turn, prompt: Prompt, settings: TurnSettings, plan: RoundPlan | None = None
    ) -> TurnResult:
        """Finish a round that was cut off in another process; see `Engine.resume_turn`."""
        plan = plan or RoundPlan(first_step=turn.first_step)
        system_ids = self.conversation.system_ids
        resumed = self._engine.resume_turn(turn, prompt, settings, plan, system_ids=system_ids)
        with resumed as running:
            return self._run(running, prompt)

    def _run(self, turn: RunningTurn | StoppedTurn, prompt: Prompt) -> TurnResult:
        self.conversation.begin_turn(prompt)
        result = turn.run()
        self.conversation.finish_turn(result.token_ids, result.text, result.stop_text)
        return result

    def watch(self, layers: Iterable[str | int], *, full: bool = False) -> ActivationMonitor:
        """Record statistics of what these layers give, for every forward from the next turn on.

        `layers` are numbers, full names or those of TransformerLens; see `find_layer`. `full`
        measures more, and takes longer. Raises ToolError for an unknown layer.
        """
        self._engine.monitor = ActivationMonitor(self.model, layers, full=full)
        return self._engine.monitor

    @property
    def monitor(self) -> ActivationMonitor | None:
        """Who watches activations, if anybody does."""
        return self._engine.monitor

    def unwatch(self) -> None:
        """Look at no layer any more."""
        self._engine.monitor = None

    def with_recorded_interventions(self) -> AbstractContextManager[None]:
        """What is forwarded of the conversation in here is intervened with as it was."""
        return self._engine.interventions.with_recorded_interventions()

    def fork(self) -> Conversation:
        """A conversation that goes on from here on its own, for `switch`. Nothing is copied."""
        return self.conversation.fork()

    def switch(self, conversation: Conversation) -> Conversation:
        """Go on with another conversation; the one so far is returned, to come back to.

        What is cached of both is kept, as far as the budget goes.
        """
        if not isinstance(conversation, Conversation):
            raise ModelError(f"to switch to: a conversation, not a {type(conversation).__name__}")
        before = self.conversation.fork()
        conversation.follow(self.conversation)
        self.conversation = conversation
        return before

    def store_prefix(self) -> bool:
        """Keep on disk what is cached of the last turn, its prompt and reply, for other processes.

        False where there is no `prefix_folder`, nothing cached, or a cache that no file can hold.
        Raises OSError where the folder cannot be written to.
        """
        return self._engine.store_prefix(self.conversation.ids)

    def intervene(self, intervention: Intervention, *, clear_cache: bool = False) -> None:
        """From the next turn on, do something to what layers of the model give.

        What is in the history keeps what was computed for it. With `clear_cache` everything that is
        cached is given up, and the next turn computes its whole prompt anew, with the intervention
        where its positions allow it. Raises ModelError and ToolError, and changes nothing, for what
        does not fit the model and for a name that is in use.
        """
        self._engine.intervene(intervention, clear_cache=clear_cache)

    def withdraw(self, name: str, *, clear_cache: bool = False) -> None:
        """From the next turn on, do it no more; with `clear_cache` on none of its prompt either."""
        self._engine.withdraw(name, clear_cache=clear_cache)

    def clear_cache(self, reason: str = "asked") -> None:
        """Free everything that is cached, the system prompt's part too."""
        self._engine.clear_cache(reason)


def _folder(path: str | os.PathLike[str] | None) -> PrefixFolder | None:
    if path is None:
        return None
    try:
        text = os.fspath(path)
    except TypeError:
        raise ModelError(f"prefix_folder is a path, not {path!r}") from None
    if not isinstance(text, str) or "\0" in text:
        raise ModelError(f"prefix_folder is no path that a file can have: {path!r}")
    return PrefixFolder(Path(text))
