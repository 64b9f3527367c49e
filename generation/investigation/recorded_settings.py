"""The settings of recorded turns, and changes of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig

from tokentape.generation.checks import check_count, check_seed
from tokentape.generation.engine.turn import TurnSettings, check_have_effect
from tokentape.generation.errors import PromptError
from tokentape.generation.hf import check_settings, recorded_config
from tokentape.generation.models.loading import LoadedModel
from tokentape.recorder.plain_values import plain_value
from tokentape.recorder.projections import Turn


def recorded_settings(turn: Turn, changes: Mapping[str, Any] | None = None) -> TurnSettings:
    """Return the settings of a recorded turn, with changes of its `generate` settings.

    Raise ModelError for a change that is no setting, and PromptError for one without effect. What
    the turn was recorded with is never refused.
    """
    bypassed = turn.cache is not None and turn.cache.reason == "user_bypass"
    sampling = {**turn.started.sampling, **(changes or {})}
    if sampling.get("temperature") == 0:
        sampling["do_sample"] = False
    # The default `min_length` of zero is the one default that is not recorded.
    config = recorded_config({"min_length": 0, **sampling}, turn.started.own_settings)
    check_have_effect(changes or {}, config)
    return TurnSettings(
        config=config,
        seed=turn.started.seed if config.do_sample else None,
        use_cache=not bypassed,
    )


def changed_settings(turn: Turn, changes: Mapping[str, Any], *, derived_seed: int) -> TurnSettings:
    """Return the settings of a recorded turn with changes, its `seed` among them.

    A turn that is sampled now, and was not, has the derived seed. Raise as `recorded_settings`.
    """
    changed = dict(plain_value(changes))
    seed = changed.pop("seed", None)
    settings = recorded_settings(turn, changed)
    check_seed_has_effect(seed, settings.config)
    if settings.config.do_sample and (seed is not None or settings.seed is None):
        settings = replace(settings, seed=derived_seed if seed is None else seed)
    return settings


def check_has_settings(changes: Mapping[str, Any]) -> None:
    """Raise ModelError for a change that is no setting of a turn, or no length of a reply."""
    if "max_new_tokens" in changes:
        check_count("max_new_tokens", changes["max_new_tokens"])
    recorded_config({name: plain_value(changes[name]) for name in changes if name != "seed"})


def check_changes(lm: LoadedModel, turn: Turn, changes: Mapping[str, Any]) -> None:
    """Raise ModelError for changes of a turn's settings that `generate` lacks or refuses."""
    others = {name: plain_value(changes[name]) for name in changes if name != "seed"}
    seed = check_seed(changes.get("seed"))
    config = recorded_settings(turn, others).config
    check_seed_has_effect(seed, config)
    ids = torch.zeros((1, 1), dtype=torch.long, device=lm.model.device)
    check_settings(lm.model, lm.tokenizer, config, ids)


def check_seed_has_effect(seed: int | None, config: GenerationConfig) -> None:
    """Raise PromptError for a seed with which a greedy turn is meant to differ from the recorded.

    A seed of a new turn is not refused: there it says how a token would be drawn.
    """
    if seed is not None and not config.do_sample:
        raise PromptError(f"seed={seed} has no effect on a greedy turn: add do_sample=True")
