"""A folder of stored prefixes: KV caches that outlive the process, one safetensors file each.

A file name contains a hash of the identity (model, versions, device) and of the ids, so that a
lookup only lists the folder. Before use, the metadata, the user's signature, the hash of the
tensors and the model's next logits are verified. An invalid file is a cache miss with a reason.

Keys and values cannot be proven without computing them again: who can choose them can make the
hash and the logits fit. Only files that this user has written are therefore used.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.cache_utils import Cache

from tokentape.generation.cache.prefix_key import prefix_key, signature, signature_fault
from tokentape.generation.cache.reuse import common_prefix_length
from tokentape.generation.errors import ModelError
from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.events import ids_sha256
from tokentape.recorder.paths import expand_path

_FORMAT = "tokentape-prefix-1"
_NAME = re.compile(r"(?P<identity>[0-9a-f]{16})-(?P<tokens>\d+)-(?P<ids>[0-9a-f]{16})\.safetensors")
_SAMPLE = 64

NextLogits = Callable[[Cache, tuple[int, ...]], torch.Tensor]
"""Returns the logits, shape (vocab,), after the first of the ids is appended to a copy of a cache
that holds the ids."""


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """A file with a prefix of a prompt, and how many of the prompt's tokens it can supply."""

    path: Path
    usable_tokens: int


@dataclass(frozen=True, slots=True)
class RestoredPrefix:
    """The cache of a stored prefix and its ids, or the reason why the file was rejected."""

    cache: Cache | None
    ids: tuple[int, ...]
    reason: str


class PrefixFolder:
    """Stored prefixes in a folder, which is created by the first `store`.

    Files that fail verification are remembered and not read again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ids_of_file: dict[Path, tuple[int, ...]] = {}
        self._rejected: set[Path] = set()

    def find(
        self,
        prompt: Sequence[int],
        identity: Mapping[str, str],
        *,
        croppable: bool,
        more_than: int = 0,
    ) -> StoredPrefix | None:
        """Return the stored prefix with the most usable tokens, or None if at most `more_than`.

        Only `croppable` caches can be used in part. At least one token of the prompt is left to
        compute.
        """
        wanted = _identity_sha256(identity)
        prompt_hashes: dict[int, str] = {}
        found: list[StoredPrefix] = []
        try:
            entries = sorted(self.folder.iterdir())
        except OSError:
            return None
        for path in entries:
            name = _NAME.fullmatch(path.name)
            if name is None or name["identity"] != wanted or path in self._rejected:
                continue
            tokens = int(name["tokens"])
            if tokens <= more_than or not path.is_file():  # a pipe would never end
                continue
            if tokens < len(prompt) and tokens not in prompt_hashes:
                prompt_hashes[tokens] = ids_sha256(prompt[:tokens])[:16]
            if prompt_hashes.get(tokens) == name["ids"]:
                found.append(StoredPrefix(path, tokens))
            elif croppable:
                if path not in self._ids_of_file:
                    self._ids_of_file[path] = _ids_of(path)
                common = common_prefix_length(self._ids_of_file[path], tuple(prompt))
                found.append(StoredPrefix(path, min(common, len(prompt) - 1)))
        best = max(found, key=lambda each: each.usable_tokens, default=None)
        return best if best is not None and best.usable_tokens > more_than else None

    def holds(self, ids: Sequence[int], identity: Mapping[str, str]) -> bool:
        """Return whether these ids are stored in a file that was not rejected."""
        path = self.folder / _file_name(ids, identity)
        return path.is_file() and path not in self._rejected

    def store(
        self,
        ids: Sequence[int],
        cache: Cache,
        identity: Mapping[str, str],
        next_logits: NextLogits,
    ) -> Path | None:
        """Write a cache of these ids and return its path; None if it cannot be serialized.

        The write is atomic. Raise OSError if it fails, or if the user has no key to sign with.
        """
        key = prefix_key()
        serialized = _serialize(cache)
        if serialized is None:
            return None
        tensors, attributes = serialized
        after = next_logits(cache, tuple(ids))
        top = torch.topk(after, min(_SAMPLE, after.shape[-1]))
        tensors["ids"] = torch.tensor(list(ids), dtype=torch.int32)
        tensors["sample.ids"], tensors["sample.logits"] = top.indices.cpu(), top.values.cpu()
        metadata = {
            "format": _FORMAT,
            "identity": json.dumps(dict(identity), sort_keys=True),
            "attributes": json.dumps(attributes, sort_keys=True),
            "tensors_sha256": _tensors_sha256(tensors),
        }
        metadata["signature"] = signature(key, metadata)
        name = _file_name(ids, identity)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        try:
            # Keys and values show what was said: only this user reads them.
            with atomic_write(path, mode=0o600) as tmp_path:
                save_file(tensors, tmp_path, metadata=metadata)
        except SafetensorError as error:
            raise OSError(f"cannot write to {self.folder}: {error}") from None
        self._rejected.discard(path)
        return path

    def restore(
        self,
        path: Path,
        identity: Mapping[str, str],
        make_cache: Callable[[], Cache],
        next_logits: NextLogits,
        *,
        device: torch.device,
        tolerance: float,
    ) -> RestoredPrefix:
        """Load a stored prefix and verify it; reject the file if it is invalid.

        `tolerance` is the largest allowed difference between the stored and the computed logits.
        """
        restored = _restore(path, identity, make_cache, next_logits, device, tolerance)
        if restored.cache is None:
            self._rejected.add(path)
        return restored


def _restore(
    path: Path,
    identity: Mapping[str, str],
    make_cache: Callable[[], Cache],
    next_logits: NextLogits,
    device: torch.device,
    tolerance: float,
) -> RestoredPrefix:
    reason = "unreadable"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Before the tensors are read: the file of another user may be of any size.
            mismatch = _metadata_fault(metadata, identity)
            if mismatch:
                return RestoredPrefix(None, (), mismatch)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        reason = "damaged"
        mismatch = _tensors_fault(path, metadata, tensors, identity)
        if mismatch:
            return RestoredPrefix(None, (), mismatch)
        reason = "misfit"
        ids = tuple(tensors["ids"].tolist())
        cache = make_cache()
        _fill(cache, tensors, json.loads(metadata["attributes"]), device)
        after = next_logits(cache, ids).cpu()[tensors["sample.ids"]]
        difference = float((after - tensors["sample.logits"]).abs().max())
    except Exception as error:  # a damaged file can raise any error
        return RestoredPrefix(None, (), f"{reason}:{type(error).__name__}")
    if not difference <= tolerance:
        return RestoredPrefix(None, (), f"logits_differ:{difference:.2g}")
    return RestoredPrefix(cache, ids, "")


def _ids_of(path: Path) -> tuple[int, ...]:
    """Return the ids of a stored prefix, or no ids if the file cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            ids = file.get_tensor("ids")
            return tuple(ids.tolist()) if _are_ids(ids) else ()
    except Exception:  # a damaged file can raise any error
        return ()


def _are_ids(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 1 and tensor.dtype == torch.int32


def _metadata_fault(metadata: Mapping[str, str], identity: Mapping[str, str]) -> str:
    """Return why a file is of another identity or user; an empty text if it is not."""
    if metadata.get("format") != _FORMAT:
        return f"foreign:{metadata.get('format', 'no format')[:40]}"
    try:
        stored: dict[str, str] = json.loads(metadata["identity"])
    except (KeyError, ValueError):
        return "damaged:identity"
    for name in sorted({*stored, *identity}):
        if stored.get(name) != identity.get(name):
            return f"identity:{name}"
    return signature_fault(metadata)


def _tensors_fault(
    path: Path,
    metadata: Mapping[str, str],
    tensors: Mapping[str, torch.Tensor],
    identity: Mapping[str, str],
) -> str:
    """Return why the tensors are not those of the metadata, or an empty text if they are."""
    if {"ids", "sample.ids", "sample.logits"} - set(tensors):
        return "damaged:tensors"
    if not _are_ids(tensors["ids"]):
        return "damaged:ids"
    if _tensors_sha256(tensors) != metadata.get("tensors_sha256"):
        return "damaged:sum"
    if path.name != _file_name(tensors["ids"].tolist(), identity):
        return "ids_differ"
    return ""


def _serialize(cache: Cache) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Return a cache as named tensors and plain attributes; None if it holds anything else."""
    tensors: dict[str, torch.Tensor] = {}
    attributes: dict[str, Any] = {"layers": list(map(_kind, cache.layers))}
    for index, layer in enumerate(cache.layers):
        for name, value in vars(layer).items():
            path = f"{index}.{name}"
            if name == "_buffer" or isinstance(value, torch.dtype | torch.device):
                continue
            if isinstance(value, dict):
                leaves = {f"{path}.{key}": leaf for key, leaf in value.items()}
            else:
                leaves = {path: value}
            for label, leaf in leaves.items():
                if isinstance(leaf, torch.Tensor):
                    tensors[label] = leaf.detach().cpu().contiguous().clone()
                elif leaf is None or isinstance(leaf, bool | int | float | str):
                    attributes[label] = leaf
                else:
                    return None
    return tensors, attributes


def _fill(
    cache: Cache, tensors: Mapping[str, torch.Tensor], attributes: Mapping[str, Any], device: Any
) -> None:
    """Fill a new cache with serialized values. Raise ValueError if its layer kinds differ."""
    if attributes["layers"] != list(map(_kind, cache.layers)):
        raise ValueError("the kinds of the layers differ")
    values = {**attributes, **{name: tensor.to(device) for name, tensor in tensors.items()}}
    layers: list[Any] = cache.layers
    for index, layer in enumerate(layers):
        prefix = f"{index}."
        of_layer = {
            name.removeprefix(prefix): value
            for name, value in values.items()
            if name.startswith(prefix)
        }
        for label, value in of_layer.items():
            name, _, key = label.partition(".")
            if key:
                getattr(layer, name)[int(key)] = value
            else:
                setattr(layer, name, value)
        states = [
            each for each in of_layer.values() if torch.is_tensor(each) and each.is_floating_point()
        ]
        if states:
            layer.dtype, layer.device = states[0].dtype, states[0].device


def _kind(layer: object) -> str:
    return type(layer).__name__


def _file_name(ids: Sequence[int], identity: Mapping[str, str]) -> str:
    return f"{_identity_sha256(identity)}-{len(ids)}-{ids_sha256(ids)[:16]}.safetensors"


def _identity_sha256(identity: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]


def _tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def prefix_folder_at(path: str | os.PathLike[str] | None) -> PrefixFolder | None:
    """Return the folder at a path, or None without one. Raise ModelError for no path."""
    if path is None:
        return None
    try:
        text = os.fspath(path)
    except TypeError:
        raise ModelError(f"prefix_folder is a path, not {path!r}") from None
    if not isinstance(text, str) or "\0" in text:
        raise ModelError(f"prefix_folder is not a valid path: {path!r}")
    return PrefixFolder(expand_path(text))
