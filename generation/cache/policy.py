"""What may be done with a model's cache: decided by trying it, once for each model.

A probe with random ids goes on from a cached prefix, from a copy of it and from one that was cut,
and compares the logits with those of a single forward. What the layers say of themselves is not
asked: `is_croppable` is wrong in both directions.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.key import autocast_of
from tokentape.generation.errors import ModelError

CROP, SNAPSHOTS, APPEND, NONE = _MODES = ("crop", "snapshots", "append", "none")

_PREFIX_TOKENS, _SUFFIX_TOKENS = 11, 6
# In standard deviations of the logits. Over 16 families of tiny models what is right was off by up
# to 1e-5 in float32 and 0.1 in 16 bits, what is wrong by 0.3 at least and mostly by more than one.
# In 16 bits a large model is noisier than that: its own noise is measured, too.
_PRECISE = (torch.float32, torch.float64)
_TOLERANCE = 1e-3
_TOLERANCE_16_BITS = 0.25
_NOISES_16_BITS = 4
_TOLERANCE_MAX = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How a model's cache is used, and the evidence.

    `mode` is `crop` (kept and cut anywhere), `snapshots` (copies are kept, each whole), `append`
    (gone on with, in one direction) or `none`. `continues` says how tokens are put behind cached
    ones: `forward` for many at once, `tokens` for one at a time, empty where neither is right.
    `error` is the largest difference of a logit that the probe took for noise, in standard
    deviations. `shapes` are those of each layer's keys: batch, heads, dimension.
    """

    mode: str
    reason: str
    continues: str
    error: float
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def splits_prefill(self) -> bool:
        """Whether a prompt may be forwarded in chunks."""
        return self.continues == "forward"

    def described(self) -> dict[str, Any]:
        """What is recorded of it."""
        described = asdict(self)
        del described["shapes"]
        return described


_known: "weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], CachePolicy]]" = (
    weakref.WeakKeyDictionary()
)


def cache_policy(model: Any, config: GenerationConfig | None = None) -> CachePolicy:
    """The policy for a model and the kind of cache that `config` asks for, probed once.

    Raises ModelError for a model that keeps no cache, or not of that kind.
    """
    kind = config.cache_implementation if config is not None else None
    precision = f"{model.dtype} {autocast_of(model)}"
    what = (str(kind), precision, str(model.config._attn_implementation))
    known = _known.setdefault(model, {})
    if what not in known:
        with unhooked(model):
            known[what] = _decide(model, config)
    return known[what]


@contextmanager
def unhooked(model: Any) -> Iterator[None]:
    """The model without its hooks: whoever watches it is not shown a probe."""
    emptied = []
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            # Emptied, not replaced: the handle of a hook knows the dictionary that it is in.
            emptied.append((hooks, dict(hooks)))
            hooks.clear()
    try:
        yield
    finally:
        for hooks, held in emptied:
            hooks.update(held)


def _decide(model: Any, config: GenerationConfig | None) -> CachePolicy:
    cache = hf.new_cache(model, config, total_tokens=_PREFIX_TOKENS + _SUFFIX_TOKENS)
    kinds = "+".join(hf.layer_kinds(cache))
    obstacle = hf.prefix_obstacle(model)
    if obstacle is not None:
        return CachePolicy(mode=NONE, reason=obstacle, continues="", error=0.0)
    if hf.fixed_size(cache):
        reason = f"fixed_size:{kinds}"
        return CachePolicy(mode=NONE, reason=reason, continues="forward", error=0.0)
    first = _Probe(model, config, seed=0).decide(kinds)
    if first.mode == CROP:
        return first
    # Where experts are chosen, noise can flip a choice once; what is wrong is wrong each time.
    second = _Probe(model, config, seed=1).decide(kinds)
    return min(first, second, key=lambda policy: _MODES.index(policy.mode))


class _Probe:
    """Sequences that begin alike, and what the model says after them."""

    def __init__(self, model: Any, config: GenerationConfig | None, seed: int) -> None:
        self._model = model
        self._config = config or hf.effective_config(model)
        generator = torch.Generator().manual_seed(seed)
        vocabulary = model.get_input_embeddings().num_embeddings
        total = _PREFIX_TOKENS + 2 * _SUFFIX_TOKENS
        ids = torch.randint(0, vocabulary, (1, total), generator=generator).to(model.device)
        self._prefix = ids[:, :_PREFIX_TOKENS]
        self._one = ids[:, : _PREFIX_TOKENS + _SUFFIX_TOKENS]
        self._other = torch.cat([self._prefix, ids[:, -_SUFFIX_TOKENS:]], dim=-1)
        precise = model.dtype in _PRECISE and autocast_of(model) == "off"
        self._tolerance = _TOLERANCE
        if not precise:
            measured = max(_TOLERANCE_16_BITS, _NOISES_16_BITS * self._noise())
            self._tolerance = min(measured, _TOLERANCE_MAX)
        self._worst = 0.0

    def _noise(self) -> float:
        """How far the same token is off where more tokens are forwarded with it, no cache used."""
        alone = self._logits(self._one, self._new(), 0)
        more = torch.cat([self._one, self._other[:, _PREFIX_TOKENS:]], dim=-1)
        row = torch.tensor([self._one.shape[1] - 1], device=more.device)
        with torch.no_grad():
            rows = hf.forward_rows(self._model, more, self._new(), row)
        return _difference(rows[:, 0].to(alone.dtype), alone)

    def decide(self, kinds: str) -> CachePolicy:
        expected = [self._logits(ids, self._new(), 0) for ids in (self._one, self._other)]
        cache = self._new()
        self._logits(self._prefix, cache, 0)
        shapes = hf.shapes(cache)
        continues = ""
        for way in ("forward", "tokens"):
            cache = self._new()
            self._logits(self._prefix, cache, 0)
            # A model may keep states in its modules, where the next forward finds them.
            self._logits(self._other, self._new(), 0)
            if self._agrees(self._try(self._one, cache, way), expected[0]):
                continues = way
                break
        if not continues:
            reason = f"inexact:{kinds}"
            return CachePolicy(mode=NONE, reason=reason, continues="", error=self._worst)
        mode = APPEND
        if self._copies_apart(expected, continues):
            mode = SNAPSHOTS
            if hf.keeps_everything(cache) and self._can_be_cut(expected, continues):
                mode = CROP
        return CachePolicy(
            mode=mode, reason=kinds, continues=continues, error=self._worst, shapes=shapes
        )

    def _copies_apart(self, expected: list[torch.Tensor], way: str) -> bool:
        """Whether a copy and its original go on without seeing each other."""
        cache = self._new()
        self._logits(self._prefix, cache, 0)
        try:
            twin, spare = hf.fork(cache), hf.fork(cache)
        except Exception:  # a cache may hold what cannot be copied: streams, handles
            return False
        return (
            self._agrees(self._try(self._one, cache, way), expected[0])
            and self._agrees(self._try(self._other, twin, way), expected[1])
            and self._agrees(self._try(self._one, spare, way), expected[0])
        )

    def _can_be_cut(self, expected: list[torch.Tensor], way: str) -> bool:
        cache = self._new()
        self._logits(self._one, cache, 0)
        try:
            hf.crop(cache, _PREFIX_TOKENS)
        except Exception:  # each kind of layer refuses in its own way
            return False
        return self._agrees(self._try(self._other, cache, way), expected[1])

    def _new(self) -> Cache:
        total = _PREFIX_TOKENS + 2 * _SUFFIX_TOKENS + 1
        return hf.new_cache(self._model, self._config, total_tokens=total)

    def _try(self, ids: torch.Tensor, cache: Cache, way: str) -> torch.Tensor | None:
        try:
            return self._logits(ids, cache, _PREFIX_TOKENS, one_by_one=way == "tokens")
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
