"""Cached weights manifests, so that a model is not hashed at every start.

Hashing reads the whole model: 0.4 s for the demo model on two cores, and tens of seconds for 7 B
parameters. In memory, a manifest is valid while the weights are unchanged. On disk, a JSON file per
model in the user's cache folder is valid while the model's files are unchanged.
"""

import hashlib
import json
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokentape.generation.cache_dir import cache_dir
from tokentape.generation.fingerprints.model_source import ModelSource
from tokentape.generation.fingerprints.weights import hash_weights, sample_weights
from tokentape.generation.fingerprints.weights_manifest import WeightsManifest
from tokentape.generation.fingerprints.weights_version import weights_version
from tokentape.recorder.atomic_write import atomic_write

# Smaller models are hashed faster than a file is found.
_MIN_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class _CachedManifest:
    version: str
    sample: str
    manifest: WeightsManifest


_sources: "weakref.WeakKeyDictionary[Any, tuple[ModelSource, str]]" = weakref.WeakKeyDictionary()
_manifests: "weakref.WeakKeyDictionary[Any, _CachedManifest]" = weakref.WeakKeyDictionary()


def set_source(model: Any, source: ModelSource) -> None:
    """Remember the source of a model that was just loaded and not modified."""
    _sources[model] = (source, weights_version(model))


def manifest_of(model: Any) -> WeightsManifest:
    """Return the manifest of the current weights of a model.

    The weights are hashed again if a tensor was replaced, if torch counted a write to one, or if a
    sample of the numbers differs. A write of a few numbers through `.data`, which torch does not
    count, may not be noticed. Raise ModelError as `hash_weights` does.
    """
    version, sample = weights_version(model), sample_weights(model)
    cached = _manifests.get(model)
    if cached is None or (cached.version, cached.sample) != (version, sample):
        manifest = _of_unmodified(model, version, sample) or hash_weights(model)
        cached = _CachedManifest(version=version, sample=sample, manifest=manifest)
        _manifests[model] = cached
    return cached.manifest


def _of_unmodified(model: Any, version: str, sample: str) -> WeightsManifest | None:
    """Return the manifest from disk, or hash the weights and store it; None if neither applies."""
    source, loaded_version = _sources.get(model, (None, ""))
    if source is None or version != loaded_version or source.size_bytes < _MIN_BYTES:
        return None
    # The tensors may be mapped from the files, so these must be unchanged as well.
    if not source.is_unchanged():
        return None
    manifest = read_manifest(source, sample)
    if manifest is None:
        manifest = hash_weights(model)
        if source.is_unchanged():
            write_manifest(source, sample, manifest)
    return manifest


def read_manifest(source: ModelSource, sample: str) -> WeightsManifest | None:
    """Return the stored manifest of a model from this source; None if missing or invalid."""
    try:
        entry = json.loads(_path(source).read_bytes())
        if entry["key"] != _key(source, sample):
            return None
        manifest = WeightsManifest.read(entry["manifest"].encode())
        return manifest if entry["sha256"] == manifest.sha256 else None
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        return None


def write_manifest(source: ModelSource, sample: str, manifest: WeightsManifest) -> None:
    """Store a manifest in place of an older one of the same model. Failures are ignored."""
    path = _path(source)
    entry = {
        "key": _key(source, sample),
        "manifest": manifest.payload.decode(),
        "sha256": manifest.sha256,
    }
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(entry), encoding="utf-8")


def _path(source: ModelSource) -> Path:
    """Return the path of the file, which depends on the settings only."""
    settings = json.dumps(dict(source.settings), sort_keys=True)
    name = hashlib.sha256(settings.encode()).hexdigest()[:32]
    return cache_dir() / "fingerprints" / f"{name}.json"


def _key(source: ModelSource, sample: str) -> dict[str, Any]:
    files = [list(state) for state in source.files]
    return {"files": files, "settings": dict(source.settings), "sample": sample}
