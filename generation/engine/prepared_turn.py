"""A turn that has passed every check, before the first of its events is recorded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation import hf
from tokentape.generation.checks import (
    check_adapters,
    check_fits_context,
    check_not_training,
    check_prompt_ids,
)
from tokentape.generation.engine.prefill import ids_tensor
from tokentape.generation.engine.sampling import skip_draws
from tokentape.generation.engine.turn import RoundPlan, TurnSettings, turn_settings
from tokentape.generation.errors import PromptError
from tokentape.generation.history.prompt import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTurn:
    """A prompt with the objects that choose the tokens of its reply.

    A round that was cut off in another process, or that a fork continues, has `sampled` tokens
    already: processors and random generator are in the state that they have after these.
    """

    prompt: Prompt
    settings: TurnSettings
    plan: RoundPlan
    preparation: hf.Preparation
    generator: torch.Generator | None
    sampled: tuple[int, ...]
    sampling: Mapping[str, Any]
    """The settings that are recorded; see `hf.recordable`."""
    own_settings: Mapping[str, Any]
    """The recorded fields of the config that `generate` does not read."""
    input_ids: torch.Tensor
    """The ids of prompt and sampled tokens, int64 of shape (1, tokens)."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids of the prompt and of the tokens that were sampled already."""
        return (*self.prompt.ids, *self.sampled)

    @property
    def forced_left(self) -> tuple[int, ...]:
        """The tokens that the experimenter chose and that are not sampled yet."""
        done = len(self.sampled) - self.plan.continued_tokens
        return self.plan.forced_ids[max(0, done) :]


def check_turn_settings(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    settings: Mapping[str, Any],
    *,
    context_tokens: int | None,
) -> None:
    """Raise ModelError or PromptError for settings of `generate` that no turn can have."""
    config = turn_settings(model, **settings).config
    check_fits_context(context_tokens, 1, int(config.max_new_tokens or 0))
    hf.check_settings(model, tokenizer, config, ids_tensor((0,), model.device))


def _check_forced(model: Any, plan: RoundPlan, new_tokens: int) -> None:
    """Raise PromptError for chosen tokens that the model lacks, or more than a reply may have."""
    if not plan.forced_ids:
        return
    check_prompt_ids(model, plan.forced_ids)
    due = plan.continued_tokens + len(plan.forced_ids)
    if due > new_tokens:
        raise PromptError(
            f"the reply begins with {due} tokens, and max_new_tokens={new_tokens} counts them: "
            "raise it"
        )


def prepare_turn(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    settings: TurnSettings,
    plan: RoundPlan,
    sampled: Sequence[int] = (),
    *,
    context_tokens: int | None,
) -> PreparedTurn:
    """Check a turn and make its processors, criteria and random generator.

    Raise PromptError or ModelError for everything that can be rejected before the turn begins.
    """
    config, device = settings.config, model.device
    check_not_training(model)
    check_adapters(model)
    check_prompt_ids(model, prompt.ids)
    check_fits_context(context_tokens, len(prompt.ids), int(config.max_new_tokens or 0))
    _check_forced(model, plan, int(config.max_new_tokens or 0))
    ids = ids_tensor(prompt.ids, device)
    hf.check_settings(model, tokenizer, config, ids)
    sampling = hf.recordable(config)
    hf.check_can_be_read_back(sampling)
    preparation = hf.prepare(
        model,
        tokenizer,
        config,
        ids,
        processors=settings.processors,
        criteria=settings.criteria,
    )
    generator: torch.Generator | None = None
    if settings.seed is not None:
        generator = torch.Generator(device=device).manual_seed(settings.seed)
    if sampled:
        vocabulary = model.get_input_embeddings().num_embeddings
        ids = ids_tensor((*prompt.ids, *sampled), device)
        hf.catch_up(preparation.processors, ids, len(prompt.ids), vocabulary)
        if generator is not None:
            skip_draws(generator, vocabulary, len(sampled))
    return PreparedTurn(
        prompt=prompt,
        settings=settings,
        plan=plan,
        preparation=preparation,
        generator=generator,
        sampled=tuple(sampled),
        sampling=sampling,
        own_settings=hf.own_settings(config),
        input_ids=ids,
    )
