"""The settings of a request, compared with those of a recorded round, without transformers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokentape.recorder.generate_settings import GENERATE_SETTINGS, UNRECORDED_SETTINGS
from tokentape.recorder.near_names import nearest
from tokentape.recorder.plain_values import plain_value
from tokentape.recorder.projections import Turn
from tokentape.replay.results.errors import ReplayError

SAMPLING_SETTINGS = (
    "temperature",
    "top_k",
    "top_p",
    "top_h",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
)
"""Settings that a greedy turn ignores."""

GENERATE_DEFAULTS: Mapping[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "remove_invalid_values": False,
    "use_cache": True,
}
"""What transformers takes for a setting that neither the caller nor the model gives."""

_MODEL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Compared only where the application names them: a run fills them in from the tokenizer."""

_NO_EFFECT = {
    "cache_config",
    "cache_implementation",
    "min_length",
    "prefill_chunk_size",
    "use_cache",
}
"""They change the speed and the last bits, or are replaced by others."""

_OF_THE_CALL = {
    "seed",
    "callback",
    "observer",
    "observe_layers",
    "past_key_values",
    "return_cache",
    "logits_processor",
    "stopping_criteria",
    "generation_config",
}
"""Keywords of a turn that are not settings of `generate`."""


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """A setting with another value than the recorded one; None where it is not set."""

    name: str
    recorded: Any
    now: Any


def check_playable(settings: Mapping[str, Any]) -> None:
    """Raise ReplayError for a keyword that no turn has, and for one that needs a model."""
    for name in settings:
        if name not in GENERATE_SETTINGS and name not in _OF_THE_CALL:
            known = (*GENERATE_SETTINGS, *_OF_THE_CALL)
            raise ReplayError(f"turns have no setting {name!r}{nearest(name, known)}")
    for name in ("observer", "observe_layers", "return_cache", "past_key_values"):
        if settings.get(name):
            raise ReplayError(f"{name} needs the model, which a playback does not load")


def compare_settings(
    turn: Turn,
    settings: Mapping[str, Any],
    *,
    model_config: Mapping[str, Any],
    seed: int | None,
) -> Iterator[SettingDifference]:
    """Yield each setting of a round that would choose other tokens than the recorded one.

    What the application leaves out has the default of the recorded model, else of transformers.
    `seed` is that of the application's round, None if it chose none.
    """
    named = _named(settings)
    recorded = dict(turn.started.sampling)
    defaults = {**GENERATE_DEFAULTS, **_known(model_config)}
    now = {**defaults, "max_new_tokens": 100, **named}
    greedy = not recorded.get("do_sample") and not now.get("do_sample")
    for name in sorted({*recorded, *named}):
        left_out = name in _NO_EFFECT or (name in _MODEL_IDS and name not in named)
        if left_out or (greedy and name in SAMPLING_SETTINGS):
            continue
        if _canonical(recorded.get(name)) != _canonical(now.get(name)):
            yield SettingDifference(name, recorded.get(name), now.get(name))
    if recorded.get("do_sample") and seed is not None and seed != turn.started.seed:
        yield SettingDifference("seed", turn.started.seed, seed)
    yield from _compare_objects(turn, settings)


def compare_named(
    turn: Turn, settings: Mapping[str, Any], *, seeds: Sequence[int]
) -> Iterator[SettingDifference]:
    """Yield each setting that the application names and that differs from the recorded one.

    `seeds` are those that its seed stands for, which comes first.
    """
    recorded = turn.started.sampling
    greedy = not recorded.get("do_sample")
    for name, value in sorted(_named(settings).items()):
        ignored = name in _NO_EFFECT or (greedy and name in SAMPLING_SETTINGS)
        if not ignored and _canonical(recorded.get(name)) != _canonical(value):
            yield SettingDifference(name, recorded.get(name), value)
    if not greedy and seeds and turn.started.seed not in seeds:
        yield SettingDifference("seed", turn.started.seed, seeds[0])


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `generate` among the keywords. Temperature 0 is greedy."""
    config = settings.get("generation_config")
    base = {} if config is None else _known(config.to_dict())
    given = {name: plain_value(each) for name, each in settings.items() if each is not None}
    named = base | _known(given)
    if named.get("temperature") == 0:
        named["do_sample"] = False
    if named.get("do_sample") is False:
        named = {name: each for name, each in named.items() if name not in SAMPLING_SETTINGS}
    return named


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: each
        for name, each in values.items()
        if name in GENERATE_SETTINGS and name not in UNRECORDED_SETTINGS and each is not None
    }


def _compare_objects(turn: Turn, settings: Mapping[str, Any]) -> Iterator[SettingDifference]:
    """Compare the names of the caller's own processors and criteria, which is all that is there."""
    given = [settings.get(name) or () for name in ("logits_processor", "stopping_criteria")]
    now = sorted(type(each).__name__ for objects in given for each in objects)
    recorded = [each for each in turn.started.unreplayable_arguments if each not in _BY_SETTING]
    if sorted(recorded) != now:
        yield SettingDifference("processors", sorted(recorded) or None, now or None)


_BY_SETTING = ("guidance_scale", "max_time")
"""Names in `TurnStarted.unreplayable` that are settings."""


def _canonical(value: Any) -> str:
    """Return a value as JSON, in which tuples are lists and 1 is 1.0."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    return json.dumps(value, sort_keys=True, default=repr)
