"""The disk tier of the prefix cache: which prefixes may be stored, and how they are verified."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.cache.id_salt import unsalted_prefix
from tokentape.generation.cache.policy import CachePolicy
from tokentape.generation.cache.prefix_folder import (
    NextLogits,
    PrefixFolder,
    RestoredPrefix,
    StoredPrefix,
)
from tokentape.recorder.events import CacheMode

# Largest difference of the logits after a restored prefix from those stored with it. The same
# machine computes the same bits; another one may differ a little.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_TOLERANCE_16_BITS = 0.5


class WeightsIdentity(Protocol):
    """Names the weights of a model across processes."""

    @property
    def weights_sha256(self) -> str: ...


class DiskTier:
    """Stored prefixes of one model. Without a folder, nothing is found and nothing is stored."""

    def __init__(self, model: Any, identity: WeightsIdentity, folder: PrefixFolder | None) -> None:
        self._model = model
        self._identity = identity
        self._folder = folder

    def accepts(self, key: Mapping[str, str], policy: CachePolicy) -> bool:
        """Return whether caches under this key may be stored.

        Caches under foreign hooks may not: a hook has no name that another process knows.
        """
        copyable = policy.mode in (CacheMode.CROP, CacheMode.SNAPSHOTS)
        return self._folder is not None and copyable and key["hooks"] == "none"

    def find(
        self,
        prompt: Sequence[int],
        key: Mapping[str, str],
        policy: CachePolicy,
        *,
        more_than: int,
    ) -> StoredPrefix | None:
        """Return the stored prefix that saves the most, if it exceeds `more_than` tokens."""
        if self._folder is None or not self.accepts(key, policy):
            return None
        return self._folder.find(
            unsalted_prefix(prompt),
            self._named(key),
            croppable=policy.mode == CacheMode.CROP,
            more_than=more_than,
        )

    def restore(
        self, path: Path, config: GenerationConfig, key: Mapping[str, str], policy: CachePolicy
    ) -> RestoredPrefix:
        """Load a stored prefix that `find` returned, and verify it."""
        assert self._folder is not None
        return self._folder.restore(
            path,
            self._named(key),
            lambda: hf.new_cache(self._model, config),
            self._next_logits(policy),
            device=self._model.device,
            tolerance=_TOLERANCE.get(hf.compute_dtype(self._model), _TOLERANCE_16_BITS),
        )

    def store(
        self, ids: Sequence[int], cache: Cache, key: Mapping[str, str], policy: CachePolicy
    ) -> None:
        """Store a cache of these ids, unless it is stored already or may not be.

        Raise OSError if the file cannot be written.
        """
        if self._folder is None or not self.accepts(key, policy):
            return
        identity = self._named(key)
        if not self._folder.holds(ids, identity):
            self._folder.store(ids, cache, identity, self._next_logits(policy))

    def _named(self, key: Mapping[str, str]) -> dict[str, str]:
        """Return the key in terms that mean the same in another process."""
        return {
            **{name: value for name, value in key.items() if name not in ("weights", "hooks")},
            "weights_sha256": self._identity.weights_sha256,
            "torch": torch.__version__,
            "transformers": hf.VERSION,
        }

    def _next_logits(self, policy: CachePolicy) -> NextLogits:
        def next_logits(cache: Cache, ids: tuple[int, ...]) -> torch.Tensor:
            copy = hf.fork(cache)
            tensor = torch.tensor([[*ids, ids[0]]], device=self._model.device)
            config = hf.prefill_config(self._model)
            decoder = hf.Decoder(self._model, config, tensor, copy, held=len(ids))
            logits, _ = decoder.prefill(one_by_one=policy.continues == "tokens")
            return logits[0]

        return next_logits
