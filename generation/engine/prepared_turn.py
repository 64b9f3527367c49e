"""A turn that nothing speaks against, before anything of it is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation import hf
from tokentape.generation.checks import check_fits_context, check_not_training, refuse_unreadable
from tokentape.generation.engine.sampling import skip_draws
from tokentape.generation.engine.turn import TurnSettings
from tokentape.generation.history.conversation import Prompt


@dataclass(frozen=True, slots=True)
class PreparedTurn:
    """A prompt and how the tokens behind it are chosen; `sampled` are some of another process.

    Processors and random generator stand behind these.
    """

    prompt: Prompt
    settings: TurnSettings
    preparation: hf.Preparation
    generator: torch.Generator | None
    sampled: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.prompt.ids, *self.sampled)


def prepare_turn(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    settings: TurnSettings,
    sampled: Sequence[int] = (),
) -> PreparedTurn:
    """Everything that can be refused: raises PromptError and ModelError."""
    config, device = settings.config, model.device
    check_not_training(model)
    refuse_unreadable(model, prompt.ids)
    check_fits_context(model, len(prompt.ids), int(config.max_new_tokens or 0))
    ids = torch.tensor([list(prompt.ids)], dtype=torch.long, device=device)
    hf.rehearse(model, tokenizer, config, ids)
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
        everything = torch.tensor([[*prompt.ids, *sampled]], dtype=torch.long, device=device)
        hf.catch_up(preparation.processors, everything, len(prompt.ids), vocabulary)
        if generator is not None:
            skip_draws(generator, vocabulary, len(sampled))
    return PreparedTurn(prompt, settings, preparation, generator, tuple(sampled))
