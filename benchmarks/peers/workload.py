"""Prompts of different lengths, sampled with a seed each: the same for every engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tokentape as tt
from benchmarks.prompts import licence
from tokentape.generation.hf.control_tokens import encode

TOKENS_MIN, TOKENS_MAX, NEW_TOKENS = 60, 280, 64
SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9}
NO_END = 1_000_000
"""The end-of-sequence id given to every engine: no token has it, and so no sequence ends early.

`min_new_tokens` would do the same with a processor that masks the whole vocabulary in each step.
"""
SYSTEM_PROMPT = "You read a licence and answer in plain words."


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTask:
    """One sequence: what is asked, as text and as the ids of the whole prompt, and its seed."""

    question: str
    ids: tuple[int, ...]
    seed: int


def decode_tasks(lm: tt.LoadedModel, count: int) -> tuple[DecodeTask, ...]:
    """Return tasks whose prompts have about 60 to 280 tokens, spread evenly.

    A single task has the length in the middle.
    """
    ids = encode(lm.tokenizer, licence())
    spread = TOKENS_MAX - TOKENS_MIN
    shares = [index / (count - 1) for index in range(count)] if count > 1 else [0.5]
    frame = len(_prompt_ids(lm, ""))
    return tuple(
        _task(lm, ids, index, max(1, round(TOKENS_MIN + spread * share) - frame))
        for index, share in enumerate(shares)
    )


def _task(lm: tt.LoadedModel, ids: Sequence[int], index: int, tokens: int) -> DecodeTask:
    # Every question begins elsewhere, so that no two prompts share more than the system prompt.
    start = (index * 37) % max(1, len(ids) - tokens)
    question = str(
        lm.tokenizer.decode(list(ids[start : start + tokens]), skip_special_tokens=False)
    )
    return DecodeTask(question=question, ids=_prompt_ids(lm, question), seed=index + 1)


def _prompt_ids(lm: tt.LoadedModel, question: str) -> tuple[int, ...]:
    messages = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": question},
    ]
    text = lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tuple(encode(lm.tokenizer, str(text)))
