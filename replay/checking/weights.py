"""The tensors of a model that differ from the recorded weights."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tokentape.generation.fingerprints import TensorFingerprint, WeightsManifest, split_at_number
from tokentape.generation.hf.packed_tensors import has_packed_weights
from tokentape.recorder.events import RunStarted
from tokentape.store.errors import StoreError
from tokentape.store.source import Attachments

BlobSource = Attachments | Callable[[str], bytes]
"""A store, or a function that returns the blob with a sha256."""

_NAMED_MAX = 3
_ROLES_MAX = 2
_COMPARED_NUMBERS = 4 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedTensors:
    """The names of tensors that differ, each in one of the tuples, in the manifest's order."""

    recorded_tensors: int
    replayed_tensors: int
    changed: tuple[str, ...]
    """Other numbers."""
    dtype_changed: tuple[str, ...]
    """Another dtype, whether or not the numbers are equal."""
    reshaped: tuple[str, ...]
    missing: tuple[str, ...]
    """Recorded, and not in the model."""
    added: tuple[str, ...]
    """In the model, and not recorded."""
    summary: str
    """One line for people."""

    @property
    def any(self) -> bool:
        return bool(
            self.changed or self.dtype_changed or self.reshaped or self.missing or self.added
        )


def recorded_weights(started: RunStarted, blobs: BlobSource) -> WeightsManifest | None:
    """Return the manifest of the weights that a run was recorded with.

    None if the run has none, as redacted ones have, and if its blob is missing or damaged.
    """
    if not started.weights_listed:
        return None
    sha256 = started.weights_sha256
    try:
        payload = blobs(sha256) if callable(blobs) else blobs.blob(sha256)
        is_right = hashlib.sha256(payload).hexdigest() == sha256
        return WeightsManifest.read(payload) if is_right else None
    except (LookupError, OSError, StoreError, ValueError):
        return None


def changed_tensors(recorded: WeightsManifest, replayed: WeightsManifest) -> ChangedTensors:
    """Compare two manifests tensor by tensor."""
    then = {each.name: each for each in recorded.tensors}
    now = {each.name: each for each in replayed.tensors}
    both = [(each, now[each.name]) for each in recorded.tensors if each.name in now]
    names: dict[str, tuple[str, ...]] = {
        "changed": tuple(a.name for a, b in both if _kind(a, b) == "changed"),
        "dtype_changed": tuple(a.name for a, b in both if _kind(a, b) == "dtype_changed"),
        "reshaped": tuple(a.name for a, b in both if _kind(a, b) == "reshaped"),
        "missing": tuple(name for name in then if name not in now),
        "added": tuple(name for name in now if name not in then),
    }
    return ChangedTensors(
        recorded_tensors=len(then),
        replayed_tensors=len(now),
        **names,
        summary=_summary(then, now, **names),
    )


def rounded_dtype(model: Any) -> str:
    """Return `bfloat16` or `float16` if every number of a float32 model fits into that dtype.

    Empty if some numbers do not fit, as in a checkpoint that was never rounded, and for models with
    other floating dtypes or packed weights.
    """
    if has_packed_weights(model):
        return ""
    tensors = [each for each in model.state_dict().values() if torch.is_tensor(each)]
    floating = [each.detach() for each in tensors if each.is_floating_point() and each.numel()]
    if not floating or any(each.dtype != torch.float32 for each in floating):
        return ""
    for dtype in (torch.bfloat16, torch.float16):
        if all(_fits(block, dtype) for each in floating for block in _blocks(each)):
            return str(dtype).removeprefix("torch.")
    return ""


def _blocks(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    flat = tensor.reshape(-1)
    starts = range(0, flat.numel(), _COMPARED_NUMBERS)
    return [flat[start : start + _COMPARED_NUMBERS] for start in starts]


def _fits(numbers: torch.Tensor, dtype: torch.dtype) -> bool:
    rounded = numbers.to(dtype).to(numbers.dtype)
    return bool(((rounded == numbers) | numbers.isnan()).all())


def _kind(recorded: TensorFingerprint, replayed: TensorFingerprint) -> str:
    if recorded.dtype != replayed.dtype:
        return "dtype_changed"
    if recorded.shape != replayed.shape:
        return "reshaped"
    return "same" if recorded.digest == replayed.digest else "changed"


def _summary(
    recorded: dict[str, TensorFingerprint],
    replayed: dict[str, TensorFingerprint],
    *,
    changed: Sequence[str],
    dtype_changed: Sequence[str],
    reshaped: Sequence[str],
    missing: Sequence[str],
    added: Sequence[str],
) -> str:
    total = len(recorded)
    renamed = _renamed([recorded[name] for name in missing], [replayed[name] for name in added])
    gone = [name for name in missing if name not in renamed]
    known = set(renamed.values())
    new = [name for name in added if name not in known]
    unmatched = len(gone) + len(reshaped)
    if unmatched * 2 > total:
        return f"another architecture: {unmatched} of {total} tensors have no counterpart"
    parts = []
    if changed:
        parts.append(f"{len(changed)} of {total} tensors{_where(changed, recorded)}")
    if dtype_changed:
        pairs = {f"{recorded[name].dtype}, now {replayed[name].dtype}" for name in dtype_changed}
        parts.append(
            f"{len(dtype_changed)} of {total} of another type ({'; '.join(sorted(pairs))})"
        )
    if reshaped:
        parts.append(f"{len(reshaped)} of {total} of another shape{_where(reshaped, recorded)}")
    if renamed:
        parts.append(f"{len(renamed)} of {total} under another name")
    if gone:
        parts.append(f"{len(gone)} missing{_where(gone, recorded)}")
    if new:
        parts.append(f"{len(new)} added{_where(new, replayed)}")
    return "; ".join(parts) or f"the same {total} tensors"


def _renamed(
    missing: Iterable[TensorFingerprint], added: Iterable[TensorFingerprint]
) -> dict[str, str]:
    """Return the new name of each missing tensor that was added with the same digest."""
    names: dict[Any, list[str]] = defaultdict(list)
    for each in added:
        names[each.dtype, each.shape, each.digest].append(each.name)
    pairs = ((each.name, names[each.dtype, each.shape, each.digest]) for each in missing)
    return {name: others.pop(0) for name, others in pairs if others}


def _where(names: Sequence[str], every: Collection[str]) -> str:
    """Return the names, or, if they are many, the layers that they belong to."""
    if len(names) <= _NAMED_MAX:
        return ": " + ", ".join(sorted(names, key=_natural))
    if len(names) == len(every):
        return ", all"
    layer_of, role_of = _layers_in(every)
    layers = {layer_of[name] for name in names if name in layer_of}
    if not layers:
        return ""
    of_layers = {name for name, layer in layer_of.items() if layer in layers}
    roles = {role_of[name] for name in names if name in layer_of}
    others = [name for name in names if name not in layer_of]
    here = _layer_names(layers)
    if of_layers <= set(names):
        here = f"all of {here}"
    elif len(roles) <= _ROLES_MAX and len(roles) * len(layers) == len(names) - len(others):
        here = f"{' and '.join(sorted(roles))} of {here}"
    else:
        here = f"in {here}"
    if len(others) > _NAMED_MAX:
        return f", {here} and {len(others)} others"
    return f", {here}" + "".join(f" and {each}" for each in others)


def _layers_in(names: Iterable[str]) -> tuple[dict[str, tuple[str, int]], dict[str, str]]:
    """Return the layer of each tensor that belongs to one, and its name within the layer."""
    layer_of, role_of = {}, {}
    for name in names:
        prefix, number, suffix = split_at_number(name)
        if number is not None:
            layer_of[name], role_of[name] = (prefix, number), suffix.lstrip(".")
    return layer_of, role_of


def _layer_names(layers: Iterable[tuple[str, int]]) -> str:
    numbers: dict[str, list[int]] = defaultdict(list)
    for prefix, number in layers:
        numbers[prefix].append(number)
    if len(numbers) == 1:
        return f"layers {_ranges(*numbers.values())}"
    return ", ".join(f"{prefix}{_ranges(each)}" for prefix, each in sorted(numbers.items()))


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _natural(name: str) -> tuple[str, int, str]:
    prefix, number, suffix = split_at_number(name)
    return prefix, -1 if number is None else number, suffix
