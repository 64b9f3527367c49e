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

from recorder.events import ids_sha256

_FORMAT = "tokentape-prefix-1"
_NAME = re.compile(r"(?P<identity>[0-9a-f]{16})-(?P<tokens>\d+)-(?P<ids>[0-9a-f]{16})\.safetensors")
_SAMPLE = 64

AskModel = Callable[[Cache, tuple[int, ...]], torch.Tensor]
"""The logits, shape (vocab,), after one more token behind a copy of a cache of these ids."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A prefix that was found: where it is, and how many tokens it has."""

    path: Path
    tokens: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The cache of a stored prefix, or why there is none."""

    cache: Cache | None
    reason: str


class PrefixFolder:
    """Stored prefixes in a folder. It is made when something is stored in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, prompt: Sequence[int], identity: Mapping[str, str]) -> Stored | None:
        """The longest stored prefix that leaves at least one token of the prompt to compute."""
        wanted = _identity_sum(identity)
        found: list[tuple[int, str, Path]] = []
        try:
            entries = list(self.folder.iterdir())
        except OSError:
            return None
        for path in entries:
            name = _NAME.fullmatch(path.name)
            if name is not None and name["identity"] == wanted:
                found.append((int(name["tokens"]), name["ids"], path))
        for tokens, ids_sum, path in sorted(found, reverse=True):
            if 0 < tokens < len(prompt) and ids_sha256(prompt[:tokens])[:16] == ids_sum:
                return Stored(path, tokens)
        return None

    def holds(self, ids: Sequence[int], identity: Mapping[str, str]) -> bool:
        return (self.folder / _file_name(ids, identity)).is_file()

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
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise
        return self.folder / name

    def restore(
        self,
        stored: Stored,
        prompt: Sequence[int],
        identity: Mapping[str, str],
        make_cache: Callable[[], Cache],
        ask: AskModel,
        *,
        device: torch.device,
        tolerance: float,
    ) -> Restored:
        """Read a stored prefix of a prompt back, and prove it.

        `tolerance` is how far the sampled logits may be from those that were stored.
        """
        ids = tuple(prompt[: stored.tokens])
        try:
            with safe_open(stored.path, framework="pt") as file:
                described = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            return Restored(None, f"unreadable:{type(error).__name__}")
        reason = _foreign(described, tensors, identity, ids)
        if reason:
            return Restored(None, reason)
        sample = tensors["sample.ids"], tensors["sample.logits"]
        try:
            cache = make_cache()
            _read_back(cache, tensors, json.loads(described["attributes"]), device)
            after = ask(cache, ids).cpu()[sample[0]]
        except Exception as error:  # a file of another shape breaks the model in its own way
            return Restored(None, f"misfit:{type(error).__name__}")
        difference = float((after - sample[1]).abs().max())
        if not difference <= tolerance:
            return Restored(None, f"logits_differ:{difference:.2g}")
        return Restored(cache, "restored")


def _foreign(
    described: Mapping[str, str],
    tensors: Mapping[str, torch.Tensor],
    identity: Mapping[str, str],
    ids: tuple[int, ...],
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
    if tuple(tensors["ids"].tolist()) != ids:
        return "ids_differ"
    if _tensors_sum(tensors) != described.get("tensors_sha256"):
        return "damaged:sum"
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
