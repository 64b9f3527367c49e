"""A model by its name, with a manual generator over a cached system prompt."""

import os
from typing import Any, Unpack

from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.engine.turn_keywords import TURN_DEFAULTS, TurnKeywords
from tokentape.generation.errors import ModelError
from tokentape.generation.models.loading import load_model
from tokentape.generation.models.loading_settings import LOADING_DEFAULTS, LoadingKeywords
from tokentape.generation.run_settings import GeneratorKeywords, setting_defaults
from tokentape.recorder import Recorder
from tokentape.recorder.listed_keywords import lists_keywords


class ModelManager:
    """A loaded model that generates after a cached system prompt.

    Example:
        >>> import tokentape as tt
        >>> lm.model.save_pretrained(tmp_path)
        >>> _ = lm.tokenizer.save_pretrained(tmp_path)
        >>> manager = tt.ModelManager(tmp_path)
        >>> manager.enable_manual_generation("You are brief.")
        >>> reply = manager.generate_manual("Hello", max_new_tokens=4, do_sample=False)
        >>> reply == manager.generate_manual("Hello", max_new_tokens=4, do_sample=False)
        True
    """

    @lists_keywords(LOADING_DEFAULTS)
    def __init__(
        self,
        name: str | os.PathLike[str],
        **loading: Unpack[LoadingKeywords],
    ) -> None:
        """Load a model; see `load_model` for the arguments and errors."""
        self.lm = load_model(name, **loading)
        self.manual_generator: ManualGenerator | None = None

    @property
    def model(self) -> Any:
        return self.lm.model

    @property
    def tokenizer(self) -> Any:
        return self.lm.tokenizer

    @lists_keywords(setting_defaults())
    def enable_manual_generation(
        self,
        system_prompt: str,
        recorder: Recorder | None = None,
        *,
        name: str = "generation",
        seed: int | None = None,
        **settings: Unpack[GeneratorKeywords],
    ) -> None:
        """Process the system prompt once, for all calls of `generate_manual`.

        The arguments are those of `ManualGenerator`.
        """
        generator = ManualGenerator(
            self.lm.model,
            self.lm.tokenizer,
            recorder,
            name=name,
            model_name=self.lm.name,
            seed=seed,
            identity=self.lm.identity,
            **settings,
        )
        generator.cache_system_prompt(system_prompt)
        self.manual_generator = generator

    @lists_keywords(TURN_DEFAULTS)
    def generate_manual(self, prompt: str, **settings: Unpack[TurnKeywords]) -> str:
        """Return the reply to a user's message, which does not include the system prompt.

        `settings` are those of `ManualGenerator.generate`. Raise ModelError if
        `enable_manual_generation` was not called.
        """
        if self.manual_generator is None:
            raise ModelError("manual generation is not enabled: call enable_manual_generation()")
        return self.manual_generator.generate(prompt, **settings)["generated_text"]
