"""Section 9: the known answer of sampling on the device, by the size of the vocabulary.

On CUDA a thread of the random stream draws for several tokens once the vocabulary needs more blocks
than the card's multiprocessors hold at a time, so the noise of a token then depends on the card:
ATen's `DistributionTemplates.h`; pytorch issues 90006 and 196613.
"""

import hashlib
from typing import Any

import torch

from benchmarks.gpu.bench import Bench
from tokentape.generation.engine.sampling import draw

_DRAWS = 64
_SEED = 0
_BLOCK_THREADS = 256
_VOCABULARIES = (272, 32_000, 49_152, 151_936, 524_288, 2_097_152)
_TINY_VOCABULARIES = (272, 32_000)


def measure(bench: Bench) -> None:
    """Find the hashes of the first draws of a seed for each vocabulary."""
    bench.measure("exponentials", _exponentials, bench.device)
    cap = _tokens_in_one_wave(bench.cuda)
    vocabularies = set(_TINY_VOCABULARIES if bench.tiny else _VOCABULARIES)
    vocabularies |= {cap, cap + 1} if cap else set()
    for vocabulary in sorted(vocabularies):
        bench.measure("draws", _draws, bench.device, vocabulary, cap, vocabulary=vocabulary)


def _tokens_in_one_wave(device: torch.device | None) -> int:
    """Return the largest vocabulary whose noise does not depend on the card; 0 on a CPU."""
    if device is None:
        return 0
    card = torch.cuda.get_device_properties(device)
    blocks: int = card.multi_processor_count * (
        card.max_threads_per_multi_processor // _BLOCK_THREADS
    )
    return blocks * _BLOCK_THREADS


def _exponentials(device: torch.device) -> dict[str, Any]:
    generator = torch.Generator(device=device).manual_seed(_SEED)
    noise = torch.empty(_DRAWS, device=device).exponential_(1.0, generator=generator)
    found: dict[str, Any] = {"sha256": _sha256(noise), "first": noise[:4].tolist()}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found["card"] = card.name
        found["multiprocessors"] = card.multi_processor_count
        found["threads_per_multiprocessor"] = card.max_threads_per_multi_processor
    return found


def _draws(device: torch.device, vocabulary: int, cap: int) -> dict[str, Any]:
    """Draw tokens from logits that have the same bits on every device."""
    logits = (torch.arange(vocabulary) * 7_919 % 1_024).float().div(128.0)[None].to(device)
    generator = torch.Generator(device=device).manual_seed(_SEED)
    tokens = [int(draw(logits, logits, generator=generator).token[0]) for _ in range(_DRAWS)]
    state = hashlib.sha256(generator.get_state().cpu().numpy().tobytes()).hexdigest()
    noise = torch.empty(1, vocabulary, device=device)
    noise.exponential_(1.0, generator=generator.manual_seed(_SEED))
    return {
        "depends_on_card": bool(cap and vocabulary > cap),
        "tokens_sha256": hashlib.sha256(repr(tokens).encode()).hexdigest(),
        "first_tokens": tokens[:8],
        "first_noise_sha256": _sha256(noise),
        "end_state_sha256": state,
    }


def _sha256(values: torch.Tensor) -> str:
    return hashlib.sha256(values.cpu().numpy().tobytes()).hexdigest()
