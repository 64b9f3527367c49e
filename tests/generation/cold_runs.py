"""Replies of a model without a cache, to compare cached replies with."""

from typing import Any

import tokentape as tt
from tests import samplers

PROMPT = [5, 6, 7, 8, 9] * 6
GREEDY: dict[str, Any] = samplers.GREEDY | {"max_new_tokens": 6}


def cold(lm: tt.LoadedModel, **settings: Any) -> list[int]:
    """Return the ids that a new generator gives for the prompt."""
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    return generator.generate(PROMPT, **GREEDY | settings)["generated_tokens"]
