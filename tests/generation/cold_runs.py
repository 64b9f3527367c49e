"""What a model says without a cache."""

from typing import Any

import tokentape as tt

PROMPT = [5, 6, 7, 8, 9] * 6


GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6}


def cold(lm: tt.LoadedModel, **settings: Any) -> list[int]:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    return generator.generate(PROMPT, **GREEDY | settings)["generated_tokens"]
