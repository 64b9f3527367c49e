"""A check, at the first use of a model, that this release of transformers is understood.

A few tokens are generated with `generate` and with this package, and their numbers compared. The
model is a tiny random one of the same class, or the given one where no tiny one can be made.
"""

import threading
from typing import Any, NamedTuple

import torch
from transformers import __version__ as VERSION

from tokentape.generation.errors import ModelError
from tokentape.generation.hf.caches import held_tokens, new_cache
from tokentape.generation.hf.decoder import Decoder, decoding
from tokentape.generation.hf.generation_config import effective_config
from tokentape.generation.hf.output import cache_of
from tokentape.generation.hf.preparation import prepare
from tokentape.generation.hf.processors import process
from tokentape.generation.hf.signatures import unwrapped
from tokentape.generation.hf.tiny_twin import tiny_twin
from tokentape.generation.hooks.hook_types import without_hooks
from tokentape.generation.hooks.model_use import exclusive_use

KNOWN_RELEASES = "5.9 to 5.24"
"""The releases of transformers that the tests were run with."""

_PROMPT = (3, 4, 5, 4)
_NEW_TOKENS = 3
_SETTINGS: dict[str, Any] = {
    # Two processors. That of the penalty depends on the prompt.
    "repetition_penalty": 1.3,
    "min_new_tokens": _NEW_TOKENS,
    "max_new_tokens": _NEW_TOKENS,
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "pad_token_id": 0,
}
# In standard deviations of the logits. The forwards are the same, so the noise is close to zero; a
# cache that is ignored, or positions that are wrong, differ by 0.3 at least.
_TOLERANCE = 0.1


class Generated(NamedTuple):
    """A generation, by `generate` or by this package.

    Ids have shape (1, tokens), logits and scores (new tokens, vocab).
    """

    ids: torch.Tensor
    logits: torch.Tensor
    scores: torch.Tensor
    held_tokens: int | None
    """The number of tokens in the cache at the end; None if the cache does not count them."""


_complaints: dict[type, str] = {}
"""For each class of model that was checked: why it is not understood, or an empty text."""
_lock = threading.Lock()


def check_release(model: Any) -> None:
    """Raise ModelError if this release of transformers generates otherwise than is known here.

    The result is cached for each class of model. A model on which `generate` itself fails, or that
    has no cache, is not checked: its first use raises its own error.
    """
    base = unwrapped(model)
    kind = type(base)
    if kind not in _complaints:
        _complaints[kind] = _complaint(base)
    if complaint := _complaints[kind]:
        raise ModelError(
            f"transformers {VERSION}: tokentape does not know how this release generates with "
            f"{kind.__name__} ({complaint}); known releases: {KNOWN_RELEASES}; install one of "
            "them, or a newer tokentape"
        )


def _complaint(model: Any) -> str:
    """Return why the release is not understood, or an empty text."""
    # The lock of a model is not taken within this lock: its holder may wait for this one.
    with _lock:
        if type(model) in _complaints:
            return _complaints[type(model)]
        twin = tiny_twin(model)
        if twin is not None and (expected := _generated(twin)) is not None:
            _complaints[type(model)] = _difference(twin, expected)
            return _complaints[type(model)]
    if model.training:
        return ""
    with exclusive_use(model), without_hooks(model):
        if (expected := _generated(model)) is None:
            return ""
        try:
            # The model's own generation config may have a mode that tokentape refuses.
            effective_config(model, **_SETTINGS)
        except ModelError:
            return ""
        return _difference(model, expected)


def _generated(model: Any) -> Generated | None:
    """Return what `generate` does, or None if it does not run with a cache."""
    prompt = torch.tensor([_PROMPT], device=model.device)
    try:
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            return_dict_in_generate=True,
            output_logits=True,
            output_scores=True,
            **_SETTINGS,
        )
    except Exception:  # a model may raise anything
        return None
    # Other models make their cache in their forward.
    prepares = getattr(model, "_supports_default_dynamic_cache", lambda: True)()
    if not prepares or not getattr(cache_of(output), "layers", None):
        return None
    return Generated(
        ids=output.sequences,
        logits=torch.cat(output.logits),
        scores=torch.cat(output.scores),
        held_tokens=held_tokens(cache_of(output)),
    )


def _difference(model: Any, expected: Generated) -> str:
    """Return how the forwards of this package differ from those of `generate`, or an empty text."""
    cached = expected.ids.shape[1] - 1
    try:
        own = _forwarded(model, expected.ids)
    except Exception as error:  # whatever a changed interface raises
        first_line = str(error).strip().partition("\n")[0]
        return (
            first_line if isinstance(error, ModelError) else f"{type(error).__name__}: {first_line}"
        )
    if own.held_tokens not in (None, cached):
        alike = own.held_tokens == expected.held_tokens
        hint = ", in `generate` too: the model may keep none" if alike else ""
        return f"its cache holds {own.held_tokens} tokens after {cached}{hint}"
    spread = expected.logits.std().clamp_min(1e-6)
    for name in ("logits", "scores"):
        ours, theirs = getattr(own, name), getattr(expected, name)
        finite = theirs.isfinite()
        if ours.shape != theirs.shape or not torch.equal(finite, ours.isfinite()):
            return f"its {name} are others than those of generate"
        worst = float((ours - theirs)[finite].abs().max() / spread)
        if worst > _TOLERANCE:
            return f"its {name} differ from those of generate by {worst:.2g} standard deviations"
    return ""


def _forwarded(model: Any, ids: torch.Tensor) -> Generated:
    """Return what this package computes for the same ids, a forward for each token."""
    prompt = ids[:, : len(_PROMPT)]
    config = effective_config(model, **_SETTINGS)
    processors = prepare(model, None, config, prompt).processors
    cache = new_cache(model, config, total_tokens=ids.shape[1])
    decoder = Decoder(model, config, prompt, cache)
    rows = [decoder.prefill()[0]]
    with decoding(model):
        rows += [decoder.forward(ids[:, :end]) for end in range(prompt.shape[1] + 1, ids.shape[1])]
    scores = [
        process(processors, ids[:, : prompt.shape[1] + step], row) for step, row in enumerate(rows)
    ]
    return Generated(
        ids=ids,
        logits=torch.cat(rows),
        scores=torch.cat(scores),
        held_tokens=held_tokens(decoder.cache),
    )
