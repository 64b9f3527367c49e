"""Everything that is cached of a model, and the decision what of it serves a prompt."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.backend import CacheBackend
from tokentape.generation.cache.branches import Branches
from tokentape.generation.cache.disk import PrefixFolder, Restored, Stored
from tokentape.generation.cache.id_salt import is_salted, strip_salt, strip_salt_of_prefix
from tokentape.generation.cache.key import cache_key
from tokentape.generation.cache.policy import (
    APPEND,
    CROP,
    NONE,
    SNAPSHOTS,
    CachePolicy,
    cache_policy,
)
from tokentape.generation.cache.reuse import CachedPrefix, Reuse
from tokentape.generation.cache.snapshots import Snapshots
from tokentape.generation.errors import ModelError

# Equal to no id: what is asked for with it behind may be reused to its very end.
NO_TOKEN = -1

# What llama.cpp's server keeps in memory, too.
CACHE_BYTES = 8 * 1024**3

# How far logits after a restored prefix may be from those that were stored with it.
# The same machine gives the same bits.
_RESTORE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_RESTORE_TOLERANCE_16_BITS = 0.5


class WeightsIdentity(Protocol):
    """What names the weights across processes."""

    @property
    def weights_sha256(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLease:
    """What a prompt begins with: a cache of its first `reuse.reused_tokens`, and how to go on."""

    reuse: Reuse
    cache: Cache
    key: Mapping[str, str]
    policy: CachePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """Something was given up, or not kept at all."""

    reason: str
    tokens: int
    freed_bytes: int
    kept_bytes: int


class PrefixCache:
    """Caches by the key under which they are valid, within a budget of bytes.

    A key that comes back, as when somebody's hook is taken off again, finds its caches again.
    """

    def __init__(
        self,
        model: Any,
        identity: WeightsIdentity,
        *,
        budget_bytes: int = CACHE_BYTES,
        folder: PrefixFolder | None = None,
    ) -> None:
        self._model = model
        self._identity = identity
        self._budget_bytes = budget_bytes
        self._folder = folder
        self._shelves: dict[str, tuple[Mapping[str, str], CacheBackend]] = {}
        self._latest: Mapping[str, str] | None = None
        self._clock = itertools.count(1)
        self._system_ids: tuple[int, ...] = ()

    def start(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        *,
        total_tokens: int,
        use_cache: bool = True,
        given: CachedPrefix | None = None,
    ) -> CacheLease:
        """The best start for a prompt. The cache is the caller's to fill; `finish` brings it back.

        Ids are marked with what acts on them, here and wherever they are handed over: see
        `generation.cache.id_salt`. Raises ModelError for a cache of `given` that does not hold its
        ids.
        """
        policy = cache_policy(self._model, config)
        key = cache_key(self._model, config)
        cache: Cache | None = None
        if policy.mode == NONE:
            reuse = Reuse(decision="bypass", reason=policy.reason)
        elif not use_cache:
            reuse = Reuse(decision="bypass", reason="user_bypass")
        elif given is not None:
            reuse, cache = self._take_given(prompt, given, key, policy)
        else:
            reuse, cache = self._take(prompt, config, key, policy)
        if cache is None:
            cache = hf.new_cache(self._model, config, total_tokens=total_tokens)
        return CacheLease(reuse=reuse, cache=cache, key=key, policy=policy)

    def look(self, prompt: Sequence[int]) -> Reuse:
        """What memory holds of a prompt; nothing is changed."""
        return self._shelf(cache_key(self._model), cache_policy(self._model)).look(prompt)

    def prefilled(self, start: CacheLease, prompt: Sequence[int]) -> tuple[Eviction, ...]:
        """The prompt is in the cache: where it could not be cut back to it, keep a copy."""
        if start.policy.mode != SNAPSHOTS or not self._still_valid(start):
            return ()
        if hf.kv_bytes(start.cache) <= self._budget_bytes:
            shelf = self._shelf(start.key, start.policy)
            shelf.keep(prompt, hf.fork(start.cache), next(self._clock))
        return tuple(self._fit())

    def finish(
        self, start: CacheLease, ids: Sequence[int], *, system: bool = False
    ) -> tuple[Eviction, ...]:
        """Keep what was begun, as far as the budget goes; `system` for the system prompt's own.

        Not where the model was changed under way: the cache holds something of both then.
        """
        if start.policy.mode == NONE or not self._still_valid(start):
            return ()
        if system:
            self._system_ids = tuple(ids)
        shelf = self._shelf(start.key, start.policy)
        size = hf.kv_bytes(start.cache)
        if size > self._budget_bytes:
            shelf.forget_turn()
            refused = Eviction(
                reason="over_budget", tokens=len(ids), freed_bytes=size, kept_bytes=self.kv_bytes
            )
            return (refused, *self._fit())
        shelf.keep(ids, start.cache, next(self._clock))
        self._latest = start.key
        return tuple(self._fit())

    def refuse_uncopied(self, config: GenerationConfig) -> None:
        """Raise ModelError where what a turn leaves cannot be copied for the caller."""
        policy = cache_policy(self._model, config)
        if policy.mode not in (CROP, SNAPSHOTS):
            raise ModelError(f"a cache of this model cannot be returned: {policy.reason}")

    def copy(self, start: CacheLease, ids: Sequence[int]) -> CachedPrefix:
        """What was begun, for the caller to keep."""
        states = hf.states_sha256(start.cache)
        marked_ids = tuple(ids) if any(map(is_salted, ids)) else ()
        return CachedPrefix(strip_salt(ids), hf.fork(start.cache), start.key, states, marked_ids)

    def clear(self) -> int:
        """Forget everything; the bytes that were held."""
        freed = self.kv_bytes
        self._shelves.clear()
        self._latest, self._system_ids = None, ()
        return freed

    @property
    def kv_bytes(self) -> int:
        """Bytes of storage that are held, each storage once."""
        return hf.storage_bytes(self._tensors())

    def store(self, start: CacheLease, ids: Sequence[int]) -> None:
        """Keep a prefix on disk, if there is a folder and its files can say what it is."""
        if self._folder is None or not self._can_be_on_disk(start.key, start.policy):
            return
        identity = self._disk_identity(start.key)
        if not self._folder.holds(ids, identity):
            self._folder.store(ids, start.cache, identity, self._asking(start.policy))

    def store_held(self, ids: Sequence[int]) -> bool:
        """Keep on disk the part of these ids that is held; False where there is none, or no way."""
        config = hf.effective_config(self._model)
        policy, key = cache_policy(self._model), cache_key(self._model)
        if self._folder is None or not self._can_be_on_disk(key, policy):
            return False
        held = self._shelf(key, policy).look((*ids, NO_TOKEN)).reused_tokens
        if not held:
            return False
        start = self.start((*ids[:held], NO_TOKEN), config, total_tokens=held + 1)
        self.store(start, ids[:held])
        self.finish(start, ids[:held])
        return True

    def _take(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        key: Mapping[str, str],
        policy: CachePolicy,
    ) -> tuple[Reuse, Cache | None]:
        self._forget_other_weights(key)
        shelf = self._shelf(key, policy)
        reuse = shelf.look(prompt)
        if reuse.reason == "cold" and self._latest is not None:
            reuse = _key_changed(self._latest, key) or reuse
        source, disk_reason = "memory", ""
        found = self._find_on_disk(prompt, key, policy, more_than=reuse.reused_tokens)
        if found is not None:
            restored = self._restore(found.path, config, key, policy)
            disk_reason = restored.reason
            if restored.cache is not None:
                source = "disk"
                if hf.kv_bytes(restored.cache) > self._budget_bytes:
                    # Of use to this turn, and too large to stay.
                    shelf = Snapshots(copies=True)
                shelf.keep(restored.ids, restored.cache, next(self._clock))
                self._latest = key
                reuse = shelf.look(prompt)
        cache: Cache | None = None
        if reuse.reused_tokens:
            reuse, cache = shelf.take(prompt, next(self._clock))
        source = source if reuse.reused_tokens else ""
        return replace(reuse, source=source, disk_reason=disk_reason), cache

    def _take_given(
        self,
        prompt: Sequence[int],
        given: CachedPrefix,
        key: Mapping[str, str],
        policy: CachePolicy,
    ) -> tuple[Reuse, Cache | None]:
        check_cache_fits(given, policy)
        changed = _key_changed(given.key, key)
        if changed is not None:
            return replace(changed, cached_tokens=len(given.ids)), None
        alone = Snapshots(copies=policy.mode != APPEND)
        alone.keep(given.marked_ids or given.ids, given.cache, 0)
        reuse, cache = alone.take(prompt, 0)
        return replace(reuse, source="given" if reuse.reused_tokens else ""), cache

    def _find_on_disk(
        self,
        prompt: Sequence[int],
        key: Mapping[str, str],
        policy: CachePolicy,
        *,
        more_than: int,
    ) -> Stored | None:
        if self._folder is None or not self._can_be_on_disk(key, policy):
            return None
        identity = self._disk_identity(key)
        croppable = policy.mode == CROP
        plain = strip_salt_of_prefix(prompt)
        return self._folder.find(plain, identity, croppable=croppable, more_than=more_than)

    def _restore(
        self, path: Path, config: GenerationConfig, key: Mapping[str, str], policy: CachePolicy
    ) -> Restored:
        assert self._folder is not None
        tolerance = _RESTORE_TOLERANCE.get(self._model.dtype, _RESTORE_TOLERANCE_16_BITS)
        return self._folder.restore(
            path,
            self._disk_identity(key),
            lambda: hf.new_cache(self._model, config),
            self._asking(policy),
            device=self._model.device,
            tolerance=tolerance,
        )

    def _asking(self, policy: CachePolicy) -> Any:
        """Asks the model for the logits after one more token: the first of the ids again."""

        def ask(cache: Cache, ids: tuple[int, ...]) -> torch.Tensor:
            twin = hf.fork(cache)
            tensor = torch.tensor([[*ids, ids[0]]], device=self._model.device)
            config = hf.effective_config(self._model)
            decoder = hf.Decoder(self._model, config, tensor, twin, held=len(ids))
            logits, _ = decoder.prefill(one_by_one=policy.continues == "tokens")
            return logits[0]

        return ask

    def _disk_identity(self, key: Mapping[str, str]) -> dict[str, str]:
        """The key in words that mean the same in another process."""
        return {
            **{name: value for name, value in key.items() if name not in ("weights", "hooks")},
            "weights_sha256": self._identity.weights_sha256,
            "torch": torch.__version__,
            "transformers": hf.VERSION,
        }

    def _can_be_on_disk(self, key: Mapping[str, str], policy: CachePolicy) -> bool:
        """A hook has no name that another process knows."""
        return key["hooks"] == "none" and policy.mode in (CROP, SNAPSHOTS)

    def _shelf(self, key: Mapping[str, str], policy: CachePolicy) -> CacheBackend:
        name = json.dumps(dict(key), sort_keys=True)
        if name not in self._shelves:
            shelf: CacheBackend
            if policy.mode == CROP:
                shelf = Branches(lambda: hf.new_cache(self._model))
            else:
                shelf = Snapshots(copies=policy.mode == SNAPSHOTS)
            self._shelves[name] = (key, shelf)
        return self._shelves[name][1]

    def _forget_other_weights(self, key: Mapping[str, str]) -> None:
        """A version of the weights never comes back."""
        self._shelves = {
            name: (held, shelf)
            for name, (held, shelf) in self._shelves.items()
            if held["weights"] == key["weights"]
        }

    def _still_valid(self, start: CacheLease) -> bool:
        now = cache_key(self._model)
        return all(value == start.key[name] for name, value in now.items() if name != "cache")

    def _fit(self) -> Iterator[Eviction]:
        """Give up what was of use the longest ago until the rest fits; the system prompt last."""
        held = self.kv_bytes
        while held > self._budget_bytes:
            offered = [
                (candidate, shelf)
                for _, shelf in self._shelves.values()
                if (candidate := shelf.candidate(self._system_ids)) is not None
            ]
            if not offered:
                return
            candidate, shelf = min(
                offered, key=lambda each: (each[0].holds_system_prompt, each[0].used_at)
            )
            shelf.evict(self._system_ids)
            left = self.kv_bytes
            yield Eviction(
                reason="budget",
                tokens=candidate.tokens,
                freed_bytes=held - left,
                kept_bytes=left,
            )
            held = left

    def _tensors(self) -> Iterator[torch.Tensor]:
        for _, shelf in self._shelves.values():
            yield from shelf.tensors()


def check_cache_fits(given: CachedPrefix, policy: CachePolicy) -> None:
    """Raise ModelError for a cache that does not hold its ids, or is not one of this model."""
    if not isinstance(given, CachedPrefix):
        raise ModelError(
            f"a {type(given).__name__} says nothing of its ids: hand over what "
            "generate(return_cache=True) gave as past_key_values"
        )
    if not given.ids:
        raise ModelError("the cache that was handed over is empty")
    shapes = hf.shapes(given.cache)
    if shapes != policy.shapes:
        raise ModelError(
            f"the cache that was handed over has layers of {shapes[:2]} …, "
            f"and those of the model are {policy.shapes[:2]} …"
        )
    if hf.states_sha256(given.cache) != given.states_sha256:
        raise ModelError(
            "the cache that was handed over holds states that are not those of its ids: "
            "somebody has gone on with it"
        )
    layers: list[Any] = given.cache.layers
    for number, layer in enumerate(layers):
        held = layer.get_seq_length() if hasattr(layer, "get_seq_length") else len(given.ids)
        if int(held) != len(given.ids):
            raise ModelError(
                f"the cache that was handed over holds {int(held)} tokens in layer {number}, "
                f"and its ids are {len(given.ids)}"
            )


def _key_changed(held: Mapping[str, str], key: Mapping[str, str]) -> Reuse | None:
    for name, value in key.items():
        if held.get(name) != value:
            return Reuse(decision="miss", reason=f"key_changed:{name}", key_field=name)
    return None
