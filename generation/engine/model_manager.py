"""A model by name, with a manual generator behind a cached system prompt."""

import os
from typing import Any

from tokentape.generation.engine.manual_generator import ManualGenerator
from tokentape.generation.errors import ModelError
from tokentape.generation.models.loading import load_model
from tokentape.recorder import Recorder


class ModelManager:
    """Loads a model and generates with it; see `load_model` for the name and its errors."""

    def __init__(self, name: str | os.PathLike[str], **settings: Any) -> None:
        """`settings` are those of `load_model`: dtype, device, attn_implementation."""
        self.lm = load_model(name, **settings)
        self.manual_generator: ManualGenerator | None = None

    @property
    def model(self) -> Any:
        return self.lm.model

    @property
    def tokenizer(self) -> Any:
        return self.lm.tokenizer

    def enable_manual_generation(
        self, system_prompt: str, recorder: Recorder | None = None, **settings: Any
    ) -> None:
        """Process the system prompt once, for all calls of `generate_manual`.

        `settings` are those of `ManualGenerator`.
        """
        named: dict[str, Any] = {"model_name": self.lm.name, "identity": self.lm.identity}
        generator = ManualGenerator(self.lm.model, self.lm.tokenizer, recorder, **named | settings)
        generator.cache_system_prompt(system_prompt)
        self.manual_generator = generator

    def generate_manual(self, prompt: str, **settings: Any) -> str:
        """The reply to a user's message, which is not to include the system prompt.

        `settings` are those of `ManualGenerator.generate`. Raises ModelError before
        `enable_manual_generation` was called.
        """
        if self.manual_generator is None:
            raise ModelError("manual generation is not enabled: call enable_manual_generation()")
        return self.manual_generator.generate(prompt, **settings)["generated_text"]
