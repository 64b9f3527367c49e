"""The settings and the result of a turn."""

import copy
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from tokentape.generation import hf
from tokentape.generation.cache import CachedPrefix
from tokentape.generation.callbacks import Pause, StateObserver, TokenCallback
from tokentape.generation.checks import check_count, check_seed, check_switch
from tokentape.generation.errors import ModelError, PromptError
from tokentape.generation.history.prompt import Prompt
from tokentape.recorder.derived_seeds import round_seed
from tokentape.recorder.events import CacheDecided, StopReason
from tokentape.recorder.plain_values import plain_value, plain_whole
from tokentape.recorder.short_forms import counted, quoted, short_repr


class GenerationResult(TypedDict):
    """The result of `ManualGenerator.generate`; `past_key_values` needs `return_cache=True`."""

    generated_text: str
    generated_tokens: list[int]
    num_tokens: int
    cache_used: bool
    stop_reason: str
    seed: int | None
    prompt_tokens: int
    cache: CacheDecided
    past_key_values: CachedPrefix | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TurnResult:
    """A finished round of a turn, or a turn of one round."""

    turn: int
    prompt: Prompt
    token_ids: tuple[int, ...]
    """The sampled ids, the end-of-sequence token included."""
    text: str
    """The text of the ids, without the end-of-sequence token."""
    stop_text: str
    """The text of the end-of-sequence token; empty if another reason stopped the reply."""
    stop_reason: str
    seed: int | None
    cache: CacheDecided
    duration_us: int
    first_step: int = 0
    past_key_values: CachedPrefix | None = None

    def __repr__(self) -> str:
        prompt = f"of turn {self.turn}: prompt of {len(self.prompt.ids):,} tokens,"
        tokens = f"{counted(len(self.token_ids), 'token')},"
        return short_repr(self, prompt, tokens, f"{self.stop_reason},", quoted(self.text))


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSettings:
    """How the tokens of a turn are chosen, and what its caller sees of them; see `turn_settings`.

    `config` is whole: it has the model's defaults in it.
    """

    config: GenerationConfig
    seed: int | None = None
    """Seeds the generator that tokens are drawn with; None if they are not drawn."""
    use_cache: bool = True
    processors: LogitsProcessorList | None = None
    criteria: StoppingCriteriaList | None = None
    callback: TokenCallback | None = None
    observer: StateObserver | None = None
    past_key_values: CachedPrefix | None = None
    return_cache: bool = False
    observe_layers: tuple[str | int, ...] = ()

    def for_next_round(self, *, sampled: int, first_step: int) -> "TurnSettings | None":
        """Return the settings of the turn's next round, or None if no token is left to generate.

        `sampled` counts the tokens of the round before, `first_step` those of the turn so far.
        """
        tokens_left = int(self.config.max_new_tokens or 0) - sampled
        if tokens_left < 1:
            return None
        config = copy.deepcopy(self.config)
        config.max_new_tokens = tokens_left
        # Both count the tokens of the whole turn.
        if config.min_new_tokens:
            config.min_new_tokens = max(0, config.min_new_tokens - sampled) or None
        if config.exponential_decay_length_penalty:
            begins_at, factor = config.exponential_decay_length_penalty
            config.exponential_decay_length_penalty = (max(0, begins_at - sampled), factor)
        seed = None if self.seed is None else round_seed(self.seed, first_step)
        return replace(self, config=config, seed=seed, past_key_values=None)

    def replay_limits(self, known: Collection[str] = ()) -> str:
        """Return in a sentence why some replays of a recorded turn will fail; empty if none will.

        Names in `known` are left out.
        """
        processors = {type(each).__name__ for each in self.processors or ()}
        names = [name for name in self.unreplayable if name not in known]
        reasons = []
        if own := [name for name in names if name in processors]:
            reasons.append(f"turns with {', '.join(own)} are replayed only if processors= is given")
        if others := [name for name in names if name not in processors and name != "max_time"]:
            reasons.append(f"turns with {', '.join(others)} cannot be replayed: no event has it")
        if "max_time" in names:
            reasons.append(
                "turns with max_time can be verified but not retraced, since the clock stops their "
                "replies: max_new_tokens stops each time at the same token"
            )
        return "; ".join(reasons)

    @property
    def unreplayable(self) -> tuple[str, ...]:
        """Names of what no event can rebuild: the caller's objects, a second prompt, the clock."""
        own = [*(self.processors or ()), *(self.criteria or ())]
        named = [type(each).__name__ for each in own]
        if self.config.guidance_scale not in (None, 1, 1.0):
            named.append("guidance_scale")
        if self.config.max_time is not None:
            named.append("max_time")
        return tuple(named)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """Which round of a turn comes next, and what may end it; the caller of a turn sets none of it.

    A round is a reply up to a call of a tool, or to the end of the turn.
    """

    first_step: int = 0
    """Tokens of the turn that were sampled in earlier rounds; 0 begins a new turn."""
    forced_ids: tuple[int, ...] = ()
    """The first tokens of the round, chosen by the experimenter."""
    continued_tokens: int = 0
    """How many tokens of the reply come before those that this round records.

    In a fork at a token, the parent has recorded them.
    """
    continued_text: str = ""
    """The text of these tokens."""
    pauses: Pause | None = None
    pause_reason: StopReason = StopReason.TOOL_CALL
    """The stop reason of a round that `pauses` ends."""
    between_tokens: Callable[[], None] | None = None
    """Called when a token is recorded and another comes; it may raise to end the turn there."""


def turn_settings(
    model: Any,
    *,
    max_new_tokens: int = 100,
    seed: int | None = None,
    use_cache: bool = True,
    callback: TokenCallback | None = None,
    observer: StateObserver | None = None,
    observe_layers: Sequence[str | int] = (),
    past_key_values: CachedPrefix | None = None,
    return_cache: bool = False,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    check_effect: bool = True,
    **settings: Any,
) -> TurnSettings:
    """Return complete settings from those that `model.generate` takes. Temperature 0 is greedy.

    Numbers may be those of numpy or torch, integers also whole floats. `max_new_tokens` overrides
    the length in a `generation_config`. Raise ModelError for `max_length` (it counts the prompt),
    for a setting that `generate` lacks or that does not choose one token at a time, and for a seed
    that is no 64-bit integer. Raise PromptError for a named setting that changes nothing, such as a
    temperature without `do_sample=True`, unless `check_effect` is False. Those in a
    `generation_config` or the model's own are defaults: they may change nothing.
    """
    max_new_tokens = check_count("max_new_tokens", plain_whole(max_new_tokens))
    settings = {name: _plain_setting(name, value) for name, value in settings.items()}
    if "max_length" in settings:
        raise ModelError("max_length counts the prompt: use max_new_tokens")
    seed = check_seed(seed)
    _check_callable(callback=[callback], observer=[observer])
    _check_callable(processor=logits_processor, criterion=stopping_criteria)
    chunk = settings.get("prefill_chunk_size")
    if chunk is not None:
        check_count("prefill_chunk_size", chunk)
    named = settings
    if settings.get("temperature") == 0:
        settings = {**settings, "do_sample": False}
    if settings.get("do_sample") is False:
        # A greedy turn ignores these: its recording has none of them.
        ignored = hf.SAMPLING_SETTINGS
        settings = {name: value for name, value in settings.items() if name not in ignored}
    settings = {**settings, "max_new_tokens": max_new_tokens}
    config = hf.effective_config(model, generation_config, **settings)
    if check_effect:
        check_have_effect(named, config)
    layers = tuple(plain_value(observe_layers))
    if layers and observer is None:
        raise PromptError(
            "observe_layers has no effect: add observer=, which is given their states"
        )
    if config.do_sample and seed is None:
        seed = secrets.randbits(63)
    return TurnSettings(
        config=config,
        seed=seed if config.do_sample else None,
        use_cache=check_switch("use_cache", use_cache),
        processors=logits_processor,
        criteria=stopping_criteria,
        callback=callback,
        observer=observer,
        observe_layers=layers,
        past_key_values=past_key_values,
        return_cache=check_switch("return_cache", return_cache),
    )


def _check_callable(**given: Iterable[object] | None) -> None:
    """Raise ModelError for an object that is given and cannot be called."""
    for name, objects in given.items():
        for each in objects or ():
            if each is not None and not callable(each):
                raise ModelError(f"a {name} must be callable, not {each!r}")


# Settings that transformers needs as integers; -1 is one, and so is a list of ids.
_INTEGERS = frozenset(
    {
        "top_k",
        "min_new_tokens",
        "min_length",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "pad_token_id",
        "bos_token_id",
        "forced_eos_token_id",
        "forced_bos_token_id",
        "prefill_chunk_size",
    }
)


def _plain_setting(name: str, value: Any) -> Any:
    """Return a setting with plain numbers.

    A row of a data frame has floats only, if any of its columns has: whole ones become integers.
    """
    plain = plain_value(list(value) if isinstance(value, range) else value)
    return plain_whole(plain) if name in _INTEGERS else plain


def check_have_effect(named: Mapping[str, Any], config: GenerationConfig) -> None:
    """Raise PromptError if a setting that the user named changes nothing in a turn of this config.

    The message says what to add, or to leave out.
    """
    obstacles = list(hf.obstacles_to(named, config))
    if obstacles:
        raise PromptError("; ".join(obstacles))
