"""How a model's cache may be used, determined by a probe once per model.

The probe computes a suffix of random ids on a cached prefix, on a copy of it and on a cropped
cache, and compares the logits with those of a single forward. It does not rely on the layers'
`is_croppable`, which is wrong in both directions.
"""

import weakref
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.key import autocast_of
from tokentape.generation.errors import ModelError
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hf.layer_cast import compute_dtype
from tokentape.generation.hf.packed_tensors import quantizes_activations
from tokentape.generation.hooks.hook_types import without_hooks
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.recorder.events import CacheMode

_PREFIX_TOKENS, _SUFFIX_TOKENS = 11, 6
# In standard deviations of the logits. Over 16 families of tiny models a correct cache differed by
# up to 1e-5 in float32 and 0.1 in 16 bits; a wrong one by at least 0.3 and mostly by more than 1.
# Large models are noisier in 16 bits, so the noise of the model is measured as well.
_PRECISE = (torch.float32, torch.float64)
_TOLERANCE = 1e-3
_TOLERANCE_16_BITS = 0.25
_NOISES_16_BITS = 4
_TOLERANCE_MAX = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How a model's cache is used, and the evidence for it."""

    mode: CacheMode
    reason: str
    """The kinds of cache layers, or why the mode is `none`."""
    continues: str
    """How tokens are appended to a cached prefix: `forward` (many per forward), `tokens` (one per
    forward), or empty if both are inexact."""
    error: float
    """Largest difference of a logit that the probe accepted as noise, in standard deviations."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Shape of the keys of each layer: batch, heads, dimension."""
    layers: tuple[hf.KvLayer, ...] = ()
    """The storage that each layer needs; empty if the mode is `none`."""

    @property
    def splits_prefill(self) -> bool:
        """Whether a prompt may be forwarded in chunks."""
        return self.continues == "forward"

    def described(self) -> dict[str, Any]:
        """Return the recorded fields."""
        described = asdict(self)
        del described["shapes"], described["layers"]
        return described


_policies: "weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], CachePolicy]]" = (
    weakref.WeakKeyDictionary()
)


def cache_policy(model: Any, config: GenerationConfig | None = None) -> CachePolicy:
    """Return the cache policy of a model, probed on the first call.

    `config` selects the kind of cache (`cache_implementation`). The result is cached per model,
    kind of cache, dtype and attention kernel.
    Raise ModelError if the model has no cache, or none of that kind, or if this release of
    transformers is not understood.

    Example:
        >>> import tokentape as tt
        >>> policy = tt.cache_policy(lm.model)
        >>> str(policy.mode), policy.continues
        ('crop', 'forward')
    """
    hf.check_release(model)
    kind = hf.cache_kind(config)
    precision = f"{compute_dtype(model)} {autocast_of(model)}"
    variant = (kind, precision, attention_kernel(model))
    policies = _policies.setdefault(model, {})
    if variant not in policies:
        with exclusive_use(model), without_hooks(model):
            if variant not in policies:  # another thread may have probed it
                policies[variant] = _decided(model, config, kind)
    return policies[variant]


def _decided(model: Any, config: GenerationConfig | None, kind: str) -> CachePolicy:
    try:
        return _decide(model, config)
    except ValueError as error:  # quanto packs only whole groups of numbers
        if config is None or config.cache_implementation is None:
            raise
        raise ModelError(f"{type(model).__name__} cannot use a {kind} cache: {error}") from None


def _decide(model: Any, config: GenerationConfig | None) -> CachePolicy:
    cache = hf.new_cache(model, config, total_tokens=_PREFIX_TOKENS + _SUFFIX_TOKENS)
    kinds = "+".join(hf.layer_kinds(cache))
    obstacle = hf.prefix_obstacle(model)
    if obstacle is not None:
        return CachePolicy(mode=CacheMode.NONE, reason=obstacle, continues="", error=0.0)
    if hf.fixed_size(cache):
        reason = f"fixed_size:{kinds}"
        return CachePolicy(mode=CacheMode.NONE, reason=reason, continues="forward", error=0.0)
    first = _Probe(model, config, seed=0).decide(kinds)
    if first.mode == CacheMode.CROP:
        return first
    # In a mixture of experts, noise can change one routing decision. A real error would show with
    # every seed.
    second = _Probe(model, config, seed=1).decide(kinds)
    return min(first, second, key=lambda policy: list(CacheMode).index(policy.mode))


class _Probe:
    """Two random sequences with a common prefix, and the model's logits after them."""

    def __init__(self, model: Any, config: GenerationConfig | None, seed: int) -> None:
        self._model = model
        self._config = config or hf.prefill_config(model)
        generator = torch.Generator().manual_seed(seed)
        vocabulary = model.get_input_embeddings().num_embeddings
        total = _PREFIX_TOKENS + 2 * _SUFFIX_TOKENS
        ids = torch.randint(0, vocabulary, (1, total), generator=generator).to(model.device)
        self._prefix = ids[:, :_PREFIX_TOKENS]
        self._one = ids[:, : _PREFIX_TOKENS + _SUFFIX_TOKENS]
        self._other = torch.cat([self._prefix, ids[:, -_SUFFIX_TOKENS:]], dim=-1)
        precise = (
            compute_dtype(model) in _PRECISE
            and autocast_of(model) == "off"
            and not quantizes_activations(model)
        )
        self._tolerance = _TOLERANCE
        # What a cache rounds must not pass for the noise of 16 bits, which is ten times smaller.
        if not precise and not hf.rounds_states(self._new()):
            measured = max(_TOLERANCE_16_BITS, _NOISES_16_BITS * self._noise())
            self._tolerance = min(measured, _TOLERANCE_MAX)
        self._worst = 0.0

    def _noise(self) -> float:
        """Return how much a token's logits change when more tokens are forwarded with it."""
        alone = self._logits(self._one, self._new(), 0)
        more = torch.cat([self._one, self._other[:, _PREFIX_TOKENS:]], dim=-1)
        row = torch.tensor([self._one.shape[1] - 1], device=more.device)
        with torch.no_grad():
            rows = hf.forward_rows(self._model, more, self._new(), row)
        return _difference(rows[:, 0].to(alone.dtype), alone)

    def decide(self, kinds: str) -> CachePolicy:
        """Return the least restrictive policy that the probe finds exact."""
        expected = [self._logits(ids, self._new(), 0) for ids in (self._one, self._other)]
        cache = self._new()
        self._logits(self._prefix, cache, 0)
        shapes, layers = hf.shapes(cache), hf.kv_layers(cache)
        continues = ""
        for method in ("forward", "tokens"):
            cache = self._new()
            self._logits(self._prefix, cache, 0)
            # An unrelated forward: a model may keep states in its modules, not in the cache.
            self._logits(self._other, self._new(), 0)
            if self._agrees(self._try(self._one, cache, method), expected[0]):
                continues = method
                break
        if not continues:
            reason = f"inexact:{kinds}"
            if hf.rounds_states(cache):
                reason = f"{reason}: cached keys and values are rounded, computed ones are not"
            return CachePolicy(mode=CacheMode.NONE, reason=reason, continues="", error=self._worst)
        mode = CacheMode.APPEND
        if self._can_be_copied(expected, continues):
            mode = CacheMode.SNAPSHOTS
            if hf.keeps_all_tokens(cache) and self._can_be_cropped(expected, continues):
                mode = CacheMode.CROP
        return CachePolicy(
            mode=mode,
            reason=kinds,
            continues=continues,
            error=self._worst,
            shapes=shapes,
            layers=layers,
        )

    def _can_be_copied(self, expected: list[torch.Tensor], method: str) -> bool:
        """Return whether a copy and its original can be appended to independently."""
        cache = self._new()
        self._logits(self._prefix, cache, 0)
        try:
            copy, second_copy = hf.fork(cache), hf.fork(cache)
        except Exception:  # a cache may hold streams or handles, which cannot be copied
            return False
        return (
            self._agrees(self._try(self._one, cache, method), expected[0])
            and self._agrees(self._try(self._other, copy, method), expected[1])
            and self._agrees(self._try(self._one, second_copy, method), expected[0])
        )

    def _can_be_cropped(self, expected: list[torch.Tensor], method: str) -> bool:
        cache = self._new()
        self._logits(self._one, cache, 0)
        try:
            hf.crop(cache, _PREFIX_TOKENS)
        except Exception:  # the kinds of layers raise different errors
            return False
        return self._agrees(self._try(self._other, cache, method), expected[1])

    def _new(self) -> Cache:
        total = _PREFIX_TOKENS + 2 * _SUFFIX_TOKENS + 1
        return hf.new_cache(self._model, self._config, total_tokens=total)

    def _try(self, ids: torch.Tensor, cache: Cache, method: str) -> torch.Tensor | None:
        try:
            return self._logits(ids, cache, _PREFIX_TOKENS, one_by_one=method == "tokens")
        except (RuntimeError, ValueError, IndexError, TypeError, ModelError):
            return None

    def _logits(
        self, ids: torch.Tensor, cache: Cache, held: int, *, one_by_one: bool = False
    ) -> torch.Tensor:
        decoder = hf.Decoder(self._model, self._config, ids, cache, held=held)
        logits, _ = decoder.prefill(one_by_one=one_by_one)
        return logits

    def _agrees(self, logits: torch.Tensor | None, expected: torch.Tensor) -> bool:
        if logits is None:
            return False
        error = _difference(logits, expected)
        agrees = error <= self._tolerance
        if agrees:
            self._worst = max(self._worst, error)
        return agrees


def _difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return float((logits - expected).abs().max() / expected.std().clamp_min(1e-6))
