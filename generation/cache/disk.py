"""Prefixes that outlive the process, one safetensors file each.

A file is named by what must be equal for it to be valid and by its ids, so that looking for one
reads nothing but the folder. Whatever is wrong with a file makes it a miss with a reason: what it
says of itself is checked, then the sum of its tensors, then what the model says after it.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.cache_utils import Cache

from tokentape.generation.cache.reuse import common_prefix_length
from tokentape.recorder.events import ids_sha256

_FORMAT = "tokentape-prefix-1"
_NAME = re.compile(r"(?P<identity>[0-9a-f]{16})-(?P<tokens>\d+)-(?P<ids>[0-9a-f]{16})\.safetensors")
_SAMPLE = 64

AskModel = Callable[[Cache, tuple[int, ...]], torch.Tensor]
"""The logits, shape (vocab,), after one more token behind a copy of a cache of these ids."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A prefix that was found: where it is, and how many of its tokens begin the prompt."""

    path: Path
    usable_tokens: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The cache of a stored prefix and its ids, or why there is none."""

    cache: Cache | None
    ids: tuple[int, ...]
    reason: str


class PrefixFolder:
    """Stored prefixes in a folder. It is made when something is stored in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ids: dict[Path, tuple[int, ...]] = {}
        self._refused: set[Path] = set()

    def find(
        self,
        prompt: Sequence[int],
        identity: Mapping[str, str],
        *,
        croppable: bool,
        more_than: int = 0,
    ) -> Stored | None:
        """The stored prefix of which the most begins the prompt; all of it unless `croppable`.

        None where that is no more than `more_than` tokens. At least one token of the prompt is
        left to compute.
        """
        wanted = _identity_sum(identity)
        sums: dict[int, str] = {}
        found: list[Stored] = []
        try:
            entries = sorted(self.folder.iterdir())
        except OSError:
            return None
        for path in entries:
            name = _NAME.fullmatch(path.name)
            if name is None or name["identity"] != wanted or path in self._refused:
                continue
            tokens = int(name["tokens"])
            if tokens <= more_than:
                continue
            if tokens < len(prompt) and tokens not in sums:
                sums[tokens] = ids_sha256(prompt[:tokens])[:16]
            if sums.get(tokens) == name["ids"]:
                found.append(Stored(path, tokens))
            elif croppable:
                if path not in self._ids:
                    self._ids[path] = _ids_of(path)
                common = common_prefix_length(self._ids[path], tuple(prompt))
                found.append(Stored(path, min(common, len(prompt) - 1)))
        best = max(found, key=lambda each: each.usable_tokens, default=None)
        return best if best is not None and best.usable_tokens > more_than else None

    def holds(self, ids: Sequence[int], identity: Mapping[str, str]) -> bool:
        """Whether these ids are stored, in a file that was not found to be bad."""
        path = self.folder / _file_name(ids, identity)
        return path.is_file() and path not in self._refused

    def store(
        self, ids: Sequence[int], cache: Cache, identity: Mapping[str, str], ask: AskModel
    ) -> Path | None:
        """Keep a cache of these ids; None where its layers cannot be written down.

        Written aside and renamed: a file that is there is whole. Raises OSError.
        """
        written = _write_down(cache)
        if written is None:
            return None
        tensors, attributes = written
        after = ask(cache, tuple(ids))
        top = torch.topk(after, min(_SAMPLE, after.shape[-1]))
        tensors["ids"] = torch.tensor(list(ids), dtype=torch.int32)
        tensors["sample.ids"], tensors["sample.logits"] = top.indices.cpu(), top.values.cpu()
        described = {
            "format": _FORMAT,
            "identity": json.dumps(dict(identity), sort_keys=True),
            "attributes": json.dumps(attributes, sort_keys=True),
            "tensors_sha256": _tensors_sum(tensors),
        }
        name = _file_name(ids, identity)
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=".making-", dir=self.folder)
        os.close(handle)
        try:
            save_file(tensors, aside, metadata=described)
            Path(aside).replace(self.folder / name)
            self._refused.discard(self.folder / name)
        except SafetensorError as error:
            raise OSError(f"cannot write to {self.folder}: {error}") from None
        finally:
            Path(aside).unlink(missing_ok=True)
        return self.folder / name

    def restore(
        self,
        path: Path,
        identity: Mapping[str, str],
        make_cache: Callable[[], Cache],
        ask: AskModel,
        *,
        device: torch.device,
        tolerance: float,
    ) -> Restored:
        """Read a stored prefix back, and prove it. A bad file is not looked at again.

        `tolerance` is how far the sampled logits may be from those that were stored.
        """
        restored = _restore(path, identity, make_cache, ask, device, tolerance)
        if restored.cache is None:
            self._refused.add(path)
        return restored


def _restore(
    path: Path,
    identity: Mapping[str, str],
    make_cache: Callable[[], Cache],
    ask: AskModel,
    device: torch.device,
    tolerance: float,
) -> Restored:
    reason = "unreadable"
    try:
        with safe_open(path, framework="pt") as file:
            described = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        reason = "damaged"
        foreign = _foreign(path, described, tensors, identity)
        if foreign:
            return Restored(None, (), foreign)
        reason = "misfit"
        ids = tuple(tensors["ids"].tolist())
        cache = make_cache()
        _read_back(cache, tensors, json.loads(described["attributes"]), device)
        after = ask(cache, ids).cpu()[tensors["sample.ids"]]
        difference = float((after - tensors["sample.logits"]).abs().max())
    except Exception as error:  # whatever a file holds, it breaks in its own way
        return Restored(None, (), f"{reason}:{type(error).__name__}")
    if not difference <= tolerance:
        return Restored(None, (), f"logits_differ:{difference:.2g}")
    return Restored(cache, ids, "")


def _ids_of(path: Path) -> tuple[int, ...]:
    """The ids of a stored prefix; none where the file cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            ids = file.get_tensor("ids")
            return tuple(ids.tolist()) if _are_ids(ids) else ()
    except Exception:  # whatever a file holds, it breaks in its own way
        return ()


def _are_ids(tensor: torch.Tensor) -> bool:
    return tensor.dim() == 1 and tensor.dtype == torch.int32


def _foreign(
    path: Path,
    described: Mapping[str, str],
    tensors: Mapping[str, torch.Tensor],
    identity: Mapping[str, str],
) -> str:
    """Why this is not the file that was looked for; empty where it is."""
    if described.get("format") != _FORMAT:
        return f"foreign:{described.get('format', 'no format')[:40]}"
    try:
        stored: dict[str, str] = json.loads(described["identity"])
    except (KeyError, ValueError):
        return "damaged:identity"
    for name in sorted({*stored, *identity}):
        if stored.get(name) != identity.get(name):
            return f"identity:{name}"
    if {"ids", "sample.ids", "sample.logits"} - set(tensors):
        return "damaged:tensors"
    if not _are_ids(tensors["ids"]):
        return "damaged:ids"
    if _tensors_sum(tensors) != described.get("tensors_sha256"):
        return "damaged:sum"
    if path.name != _file_name(tensors["ids"].tolist(), identity):
        return "ids_differ"
    return ""


def _write_down(cache: Cache) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """A cache as named tensors and plain values; None for one that holds anything else."""
    tensors: dict[str, torch.Tensor] = {}
    attributes: dict[str, Any] = {"layers": list(map(_kind, cache.layers))}
    for index, layer in enumerate(cache.layers):
        for name, value in vars(layer).items():
            here = f"{index}.{name}"
            if name == "_buffer" or isinstance(value, torch.dtype | torch.device):
                continue
            if isinstance(value, dict):
                parts = {f"{here}.{key}": each for key, each in value.items()}
            else:
                parts = {here: value}
            for label, each in parts.items():
                if isinstance(each, torch.Tensor):
                    tensors[label] = each.detach().cpu().contiguous().clone()
                elif each is None or isinstance(each, bool | int | float | str):
                    attributes[label] = each
                else:
                    return None
    return tensors, attributes


def _read_back(
    cache: Cache, tensors: Mapping[str, torch.Tensor], attributes: Mapping[str, Any], device: Any
) -> None:
    """Fill a new cache with what was written down. Raises ValueError where it is another kind."""
    if attributes["layers"] != list(map(_kind, cache.layers)):
        raise ValueError("the layers are of other kinds")
    written = {**attributes, **{name: tensor.to(device) for name, tensor in tensors.items()}}
    layers: list[Any] = cache.layers
    for index, layer in enumerate(layers):
        lead = f"{index}."
        own = {name[len(lead) :]: each for name, each in written.items() if name.startswith(lead)}
        for label, value in own.items():
            name, _, key = label.partition(".")
            if key:
                getattr(layer, name)[int(key)] = value
            else:
                setattr(layer, name, value)
        states = [
            each for each in own.values() if torch.is_tensor(each) and each.is_floating_point()
        ]
        if states:
            layer.dtype, layer.device = states[0].dtype, states[0].device


def _kind(layer: object) -> str:
    return type(layer).__name__


def _file_name(ids: Sequence[int], identity: Mapping[str, str]) -> str:
    return f"{_identity_sum(identity)}-{len(ids)}-{ids_sha256(ids)[:16]}.safetensors"


def _identity_sum(identity: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]


def _tensors_sum(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
