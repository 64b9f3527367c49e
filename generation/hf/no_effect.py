"""Settings of `generate` that change nothing in a turn, and what would give them an effect."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import GenerationConfig

# Settings that act on draws only, with the values that leave a distribution as it is.
_SAMPLING: dict[str, tuple[Any, ...]] = {
    "temperature": (1,),
    "top_k": (0,),
    "top_p": (1,),
    "top_h": (),
    "min_p": (0,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
SAMPLING_SETTINGS = tuple(_SAMPLING)

_BEAMS = "replies are not found by beam search; leave {it} out"
_ASSISTANT = "there is no assistant model; leave {it} out"
_OUTPUTS = (
    "generate() returns no such output; callback= is called with each token and its logits, and "
    "observer= with the hidden states of observe_layers="
)
_ONE_BY_ONE = "one sequence is generated at a time; leave {it} out"

# Settings that act in no turn: their values that ask for nothing, and the reason.
IGNORED: dict[str, tuple[tuple[Any, ...], str]] = {
    "early_stopping": ((False,), _BEAMS),
    "length_penalty": ((1,), _BEAMS),
    "num_beam_groups": ((1,), _BEAMS),
    "diversity_penalty": ((0,), _BEAMS),
    "low_memory": ((False,), _BEAMS),
    "penalty_alpha": ((0,), "contrastive search is not supported; leave {it} out"),
    "is_assistant": ((False,), _ASSISTANT),
    "num_assistant_tokens": ((), _ASSISTANT),
    "num_assistant_tokens_schedule": ((), _ASSISTANT),
    "assistant_confidence_threshold": ((), _ASSISTANT),
    "assistant_lookbehind": ((), _ASSISTANT),
    "assistant_ensemble_weight": ((), _ASSISTANT),
    "target_lookbehind": ((), _ASSISTANT),
    "max_matching_ngram_size": ((), _ASSISTANT),
    "speculation_type": ((), _ASSISTANT),
    "output_attentions": ((False,), _OUTPUTS),
    "output_hidden_states": ((False,), _OUTPUTS),
    "output_logits": ((False,), _OUTPUTS),
    "output_scores": ((False,), _OUTPUTS),
    "return_dict_in_generate": ((False,), _OUTPUTS),
    "compile_config": ((), "no forward is compiled; leave {it} out"),
    "continuous_batching_config": ((), _ONE_BY_ONE),
}


def obstacles_to(named: Mapping[str, Any], config: GenerationConfig) -> Iterator[str]:
    """Yield a sentence for each kind of named settings that change nothing in a turn of a config.

    `named` are the settings that the user gave; those that a config has by default are no request.
    A value that leaves the distribution of the next token unchanged, such as a temperature of 1,
    asks for nothing. Nor does any other sampling setting together with `do_sample=False` or a
    temperature of 0: the user chose a greedy turn.
    """
    given = {name: value for name, value in named.items() if value is not None}
    defaults: dict[str, Any] = config._get_default_generation_params()
    chose_greedy = given.get("do_sample") is False or given.get("temperature") == 0
    if not config.do_sample and not chose_greedy:
        idle = [name for name in _SAMPLING if _asks(given, name, _SAMPLING[name])]
        if idle:
            yield f"{_listed(given, idle)} no effect on a greedy turn: add do_sample=True"
    for reason in dict.fromkeys(reason for _, reason in IGNORED.values()):
        idle = [
            name
            for name, (neutral, why) in IGNORED.items()
            if why == reason and _asks(given, name, (*neutral, defaults.get(name)))
        ]
        if idle:
            it = "it" if len(idle) == 1 else "them"
            yield f"{_listed(given, idle)} no effect: {reason.format(it=it)}"
    yield from _overruled(given, config)


def _overruled(given: Mapping[str, Any], config: GenerationConfig) -> Iterator[str]:
    """Yield a sentence for each named setting that another setting of the turn overrules."""
    if given.get("cache_config") and config.cache_implementation is None:
        yield "cache_config has no effect on the default cache: add cache_implementation="
    if "max_cache_len" in given and config.cache_implementation is None:
        yield "max_cache_len has no effect on the default cache, which grows: leave it out"
    least, most = given.get("min_new_tokens"), config.max_new_tokens
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield (
            f"min_new_tokens={least} cannot be met, since the reply ends after {most} tokens: "
            f"add max_new_tokens={least} or more"
        )
    if least is not None and given.get("min_length"):
        yield (
            f"min_length={given['min_length']} has no effect together with min_new_tokens, which "
            "replaces it: leave one of them out"
        )


def _asks(given: Mapping[str, Any], name: str, neutral: tuple[Any, ...]) -> bool:
    return name in given and given[name] not in neutral


def _listed(given: Mapping[str, Any], names: list[str]) -> str:
    """Return `a=1, b=2 and c=3 have`, with the verb for their number."""
    texts = [f"{name}={given[name]!r}" for name in names]
    listed = " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
    return f"{listed} {'has' if len(texts) == 1 else 'have'}"
