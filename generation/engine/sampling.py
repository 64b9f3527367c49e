"""Drawing a token as Hugging Face does, and measuring the draw."""

import hashlib
import math
from dataclasses import dataclass

import torch

from tokentape.generation.engine.multinomial import pick, skip_exponentials
from tokentape.generation.errors import ModelError
from tokentape.recorder.numbers import to_half


@dataclass(frozen=True, slots=True)
class Draw:
    """A drawn token, still on the device."""

    token: torch.Tensor
    """The id of the next token, int64 of shape (1,)."""
    processed: torch.Tensor | None
    """Its log-probability after the processors, float32 of shape (1, 1); None if there are none."""
    picked: torch.Tensor
    """The id that the sampler picked, int64 of shape (1,); another one only in a replay."""


@dataclass(frozen=True, slots=True)
class Measures:
    """The numbers of `TokenSampled`, in its precision, and the flags of the stopping criteria."""

    token_id: int
    logprob: float
    logprob_processed: float
    entropy: float
    top_gap: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]
    stops: tuple[bool, ...]


def draw(
    logits: torch.Tensor,
    scores: torch.Tensor,
    *,
    generator: torch.Generator | None,
    recorded: torch.Tensor | None = None,
    forced: torch.Tensor | None = None,
) -> Draw:
    """Draw a token with the generator, or take the likeliest token without one.

    `logits` are raw and `scores` processed, both float32 of shape (1, vocab). If nothing was
    processed they are the same tensor, which saves a pass over the vocabulary. The draw is that of
    `GenerationMixin._sample`: `torch.multinomial` over the whole vocabulary. In a replay, the
    `recorded` token, int64 of shape (1,), comes next whatever is picked. A `forced` one, of the
    same shape, was chosen by the experimenter: it uses one draw, and no processor applies to it.
    Raise ModelError if no token can be drawn.
    """
    if forced is not None:
        if generator is not None:
            skip_draws(generator, logits.shape[-1], 1)
        return Draw(forced, None, forced)
    if generator is None:
        picked = torch.argmax(scores, dim=-1)
        token = picked if recorded is None else recorded
        if scores is logits:
            return Draw(token, None, picked)
        processed = scores.gather(1, token[:, None]) - scores.logsumexp(dim=-1, keepdim=True)
        return Draw(token, processed, picked)
    probabilities = torch.softmax(scores, dim=-1)
    try:
        drawn = pick(probabilities, generator)
    except RuntimeError as error:
        raise ModelError(f"nothing can be sampled from the model's logits: {error}") from None
    picked = drawn.squeeze(1)
    token = picked if recorded is None else recorded
    return Draw(token, probabilities.gather(1, token[:, None]).log(), picked)


def measure(
    logits: torch.Tensor, drawn: Draw, stops: torch.Tensor, *, top_logprobs: int
) -> Measures:
    """Return all that is recorded of a step, with one transfer to the host.

    `logits` are raw, float32 of shape (1, vocab); `stops` are the flags of the stopping criteria,
    bool of shape (criteria,). Log-probabilities are not finite where `check_finite` says so.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    top = torch.topk(logits, min(max(top_logprobs, 2), logits.shape[-1]), dim=-1)
    logprob = logprobs.gather(1, drawn.token[:, None])
    # A raw logit of minus infinity gives NaN here, and adds nothing to the entropy.
    entropy = -(logprobs.exp() * logprobs).nansum(dim=-1, keepdim=True)
    numbers = (
        logprob,
        logprob if drawn.processed is None else drawn.processed,
        entropy,
        top.values[:, :1] - top.values[:, 1:2],
        logprobs.gather(1, top.indices),
    )
    # float64 holds every float32 and every token id: one transfer is enough.
    measured = torch.cat(
        (
            torch.cat(numbers, dim=-1).double(),
            torch.cat((drawn.token[:, None], top.indices, stops[None, :]), dim=-1).double(),
        ),
        dim=-1,
    )
    values: list[float] = measured[0].tolist()
    count = top.indices.shape[-1]
    ids = values[5 + count : 5 + 2 * count]
    halves = to_half(*values[2 : 4 + count])
    return Measures(
        token_id=int(values[4 + count]),
        logprob=values[0],
        logprob_processed=values[1],
        entropy=halves[0],
        top_gap=halves[1],
        top_ids=tuple(int(i) for i in ids[:top_logprobs]),
        top_logprobs=halves[2:][:top_logprobs],
        stops=tuple(bool(flag) for flag in values[5 + 2 * count :]),
    )


def check_finite(measures: Measures) -> None:
    """Raise ModelError if the logits hold NaN or the processors leave no token."""
    if math.isnan(measures.logprob):
        raise ModelError("the model's logits hold NaN; nothing can be sampled from them")
    if not math.isfinite(measures.logprob):
        raise ModelError(f"the model gives token {measures.token_id} a probability of zero")
    if not math.isfinite(measures.logprob_processed):
        raise ModelError("the logits processors leave no token to choose")


def generator_sha256(generator: torch.Generator) -> str:
    """Return the hexadecimal sha256 of a generator's state."""
    return hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()


def skip_draws(generator: torch.Generator, vocabulary: int, draws: int) -> None:
    """Advance the generator as drawing this many tokens from the vocabulary does."""
    skip_exponentials(generator, draws * vocabulary, vocabulary=vocabulary)
