"""What is known of the weights of a model in this process, until one of them changes."""

import weakref
from dataclasses import dataclass
from typing import Any

from tokentape.generation.cache_dir import cache_dir
from tokentape.generation.fingerprints.files import LoadedFiles
from tokentape.generation.fingerprints.kept_lists import find_list, keep_list
from tokentape.generation.fingerprints.weights import list_weights, sample_weights
from tokentape.generation.fingerprints.weights_manifest import WeightsManifest
from tokentape.generation.fingerprints.weights_version import weights_version

# Less is hashed sooner than a file is found.
_WORTH_KEEPING_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    version: str
    sample: str
    weights: WeightsManifest


_files: "weakref.WeakKeyDictionary[Any, tuple[LoadedFiles, str]]" = weakref.WeakKeyDictionary()
_listed: "weakref.WeakKeyDictionary[Any, _Listed]" = weakref.WeakKeyDictionary()


def note_files(model: Any, files: LoadedFiles) -> None:
    """Say that a model has just been loaded from files, and that nothing was done to it yet."""
    _files[model] = (files, weights_version(model))


def weights_of(model: Any) -> WeightsManifest:
    """The list of a model's weights as they are now.

    It is made again when a tensor was written to or replaced, and, past torch's own count, when a
    sample of the numbers differs. A few numbers written past that count, by `.data`, may be missed.
    Raises ModelError as `list_weights` does.
    """
    version, sample = weights_version(model), sample_weights(model)
    known = _listed.get(model)
    if known is None or (known.version, known.sample) != (version, sample):
        weights = _from_files(model, version, sample) or list_weights(model)
        known = _listed[model] = _Listed(version=version, sample=sample, weights=weights)
    return known.weights


def _from_files(model: Any, version: str, sample: str) -> WeightsManifest | None:
    """Found among the lists that were kept, or kept for the next time; None where neither can be.

    The files must be those that were loaded, still: tensors may lie in them.
    """
    files, loaded_version = _files.get(model, (None, ""))
    if files is None or version != loaded_version or files.bytes < _WORTH_KEEPING_BYTES:
        return None
    if not files.are_unchanged():
        return None
    folder = cache_dir() / "fingerprints"
    found = find_list(folder, files, sample)
    if found is None:
        found = list_weights(model)
        if files.are_unchanged():
            keep_list(folder, files, sample, found)
    return found
