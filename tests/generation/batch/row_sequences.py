"""Sequences of different lengths, each of which is a row of a shared forward."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from tokentape.generation import hf

LENGTHS = (3, 14, 17, 40)
"""Shorter and longer than the sliding windows of gemma3 and mistral, which are 16."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def sequence(model: torch.nn.Module, ids: Sequence[int]) -> hf.SequenceStep:
    """Return a sequence whose last id is to be forwarded."""
    tensor = torch.tensor([list(ids)])
    decoder = hf.Decoder(model, GenerationConfig(), tensor[:, :-1], hf.new_cache(model))  # type: ignore[no-untyped-call]
    decoder.prefill()
    return hf.SequenceStep(decoder, tensor)


def prompts(seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 270, (each,), generator=generator).tolist() for each in LENGTHS]
