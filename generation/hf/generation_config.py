"""Generation configs: the effective one, and how one is recorded and read back."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, SynthIDTextWatermarkingConfig, WatermarkingConfig
from transformers.generation.configuration_utils import GenerationMode

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.quiet_configs import quiet_configs
from tokentape.generation.setting_names import setting_names
from tokentape.recorder.generate_settings import UNRECORDED_SETTINGS
from tokentape.recorder.near_names import nearest
from tokentape.recorder.plain_values import plain_value

# Errors that transformers raises for settings that it validates only when it uses them.
REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

# Neutral values of the settings that make `generate` compute more than one sequence.
_ONE_SEQUENCE: dict[str, Any] = {"num_beams": 1, "num_return_sequences": 1}
_MODE_SETTINGS = (
    "num_beams",
    "num_beam_groups",
    "penalty_alpha",
    "dola_layers",
    "constraints",
    "force_words_ids",
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "use_mtp",
)
"""Settings that choose a mode of `generate` other than greedy and sampling."""


def effective_config(
    model: Any, base: GenerationConfig | None = None, **settings: Any
) -> GenerationConfig:
    """Return the config that `model.generate(base, **settings)` would use, with model defaults.

    `settings` override a mode of the model's own config, such as its beams. Raise ModelError for an
    unknown setting, and for beam search and assisted decoding, which do not choose tokens step by
    step.
    """
    if base is not None and not isinstance(base, GenerationConfig):
        raise ModelError(
            f"generation_config must be a GenerationConfig, not a {type(base).__name__}"
        )
    if "num_return_sequences" in settings:
        # transformers rejects some values in the model's own config before it overrides them.
        base = copy.deepcopy(base) if base is not None else GenerationConfig()  # type: ignore[no-untyped-call]
        base.num_return_sequences = settings["num_return_sequences"]
    try:
        with quiet_configs():
            # Both are not passed together, which is deprecated; settings prevail.
            config = _with_model_defaults(model, base)
            unknown = _update(config, settings)
    except REFUSALS as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(f"transformers rejects these settings: {first_line}") from None
    if unknown:
        name = sorted(unknown)[0]
        raise ModelError(f"`generate` has no setting {name!r}{nearest(name, vars(config))}")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        own = _own_mode(model)
        origin = f" (the model's own generation config has {own}: override it)" if own else ""
        raise ModelError(
            f"{mode.value.replace('_', ' ')} is not supported: use greedy or sampling{origin}"
        )
    if config.num_return_sequences not in (None, 1):
        raise ModelError("one sequence is generated at a time: num_return_sequences must be 1")
    if config.token_healing:
        raise ModelError("token_healing is not supported: it changes the prompt")
    # A turn always fills a cache; whether it reuses one is a setting of the turn.
    config.use_cache = True
    return config


def prefill_config(model: Any) -> GenerationConfig:
    """Return the model's config for forwards that choose no token, whatever mode it asks for."""
    base = GenerationConfig(**_ONE_SEQUENCE)  # type: ignore[no-untyped-call]
    try:
        with quiet_configs():
            config = _with_model_defaults(model, base)
    except REFUSALS as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"transformers rejects the model's own generation config: {first_line}"
        ) from None
    config.use_cache = True
    return config


def _with_model_defaults(model: Any, base: GenerationConfig | None) -> GenerationConfig:
    config: GenerationConfig
    config, _ = model._prepare_generation_config(base)
    for name, value in vars(config).items():
        plain = plain_value(value)
        if plain is not value:
            setattr(config, name, plain)
    return config


def _own_mode(model: Any) -> str:
    """Return the settings of the model's own config that choose another mode, as text."""
    own = model.generation_config
    values = {name: getattr(own, name, None) for name in _MODE_SETTINGS}
    # One beam, one group, and a penalty of zero choose no mode.
    chosen = {name: each for name, each in values.items() if each is True or each not in (0, 1)}
    return ", ".join(f"{name}={each!r}" for name, each in chosen.items() if each is not None)


def _update(config: Any, settings: dict[str, Any]) -> dict[str, Any]:
    unknown: dict[str, Any] = config.update(**_with_watermark(settings))
    return unknown


def _with_watermark(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which a watermark that is a dictionary is an object.

    Older releases accept no dictionary, and `from_dict` knows one of the two kinds only.
    """
    watermark = settings.get("watermarking_config")
    if not isinstance(watermark, dict):
        return settings
    kind = SynthIDTextWatermarkingConfig if "ngram_len" in watermark else WatermarkingConfig
    return settings | {"watermarking_config": kind(**watermark)}


def recordable(config: GenerationConfig) -> dict[str, Any]:
    """Return the settings that `generate` reads, as plain values.

    `recorded_config` reads them. Raise ModelError if JSON cannot represent one.
    """
    # A None that overrides a default is a setting: `generate` would fill in the default again.
    defaults = config._get_default_generation_params()
    known = _known_settings()
    values = {
        name: _json_keys(value)
        for name, value in config.to_dict().items()
        if name in known
        and name not in UNRECORDED_SETTINGS
        and (name, value) != ("min_length", 0)
        and (value is not None or defaults.get(name) is not None)
    }
    try:
        return {name: _json_value(value) for name, value in values.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"this generation config cannot be recorded: {error}") from None


def own_settings(config: GenerationConfig) -> dict[str, Any]:
    """Return the fields of a config that `generate` does not read, as plain values.

    Files of models have such fields, e.g. `chat_format`. Those that JSON cannot represent are left
    out: no token depends on them.
    """
    known = _known_settings()
    own: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if name not in known and _may_be_own(name) and value is not None:
            try:
                own[name] = _json_value(value)
            except (AttributeError, TypeError, ValueError, RecursionError):
                continue
    return own


def json_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that JSON can represent, by name and without those that are None."""
    fields: dict[str, Any] = {}
    for name, value in sorted(values.items()):
        if value is not None:
            try:
                fields[name] = _json_value(_json_keys(value))
            except (AttributeError, TypeError, ValueError, RecursionError):
                continue
    return fields


def _known_settings() -> frozenset[str]:
    """Return the settings of `generate` in the installed transformers."""
    return frozenset(
        name
        for name in vars(GenerationConfig())  # type: ignore[no-untyped-call]
        if not name.startswith("_")
    )


def _may_be_own(name: str) -> bool:
    """Return whether a config may have a field of this name in addition to its settings."""
    return name.isidentifier() and not name.startswith("_") and not hasattr(GenerationConfig, name)


def _json_value(value: Any) -> Any:
    # A watermarking config is an object.
    return json.loads(json.dumps(plain_value(value), allow_nan=False, default=_as_dict))


def _json_keys(value: Any) -> Any:
    """Return a mapping of sequences of ids, as `sequence_bias` may be, as a list of its items."""
    if isinstance(value, dict) and any(isinstance(key, tuple) for key in value):
        return [[list(key), each] for key, each in value.items()]
    return value


def _as_dict(value: Any) -> dict[str, Any]:
    described: dict[str, Any] = value.to_dict()
    return described


def recorded_config(
    sampling: Mapping[str, Any], own: Mapping[str, Any] | None = None
) -> GenerationConfig:
    """Return the config that `recordable` and `own_settings` described.

    Raise ModelError for settings that `recordable` never returns: a recording may be untrusted, and
    some settings of `generate` run code.
    """
    values = copy.deepcopy(dict(sampling))
    unknown = sorted(values.keys() - _known_settings())
    if unknown:
        near = nearest(unknown[0], setting_names())
        raise ModelError(f"turns have no setting {unknown[0]!r}{near}")
    with quiet_configs():
        config: GenerationConfig = GenerationConfig.from_dict(_with_watermark(values))
    if not isinstance(config.do_sample, bool | None):
        raise ModelError(f"do_sample must be true or false, not {config.do_sample!r}")
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ModelError(f"turns cannot be generated by {mode.value.replace('_', ' ')}")
    for name, value in (own or {}).items():
        if name not in _known_settings() and _may_be_own(name):
            setattr(config, name, copy.deepcopy(value))
    return config


def check_can_be_read_back(sampling: Mapping[str, Any]) -> None:
    """Raise ModelError if these recorded settings would not give equal settings again."""
    try:
        again = recordable(recorded_config({"min_length": 0, **sampling}))
    except REFUSALS as error:
        raise ModelError(f"these settings cannot be recorded: {error}") from None
    differing = sorted(
        name for name in sampling.keys() | again.keys() if sampling.get(name) != again.get(name)
    )
    if differing:
        name = differing[0]
        raise ModelError(
            f"the setting {name}={sampling.get(name)!r} cannot be recorded: it would be read back "
            f"as {again.get(name)!r}"
        )
