"""Where the models of recordings are on this machine, since a recording names no folder of it.

A run records the last part of a path. The folder is written into a file of the user's cache folder
under the sha256 of the weights, so that a replay on the same machine finds the model.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokentape.generation.cache_dir import cache_dir
from tokentape.recorder import TokentapeError
from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.events import RunStarted
from tokentape.recorder.paths import expand_path, name_without_folders

_PLACES_MAX = 7


def without_folders(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of `RunStarted` whose model and adapter are named without folders."""
    found = dict(fields)
    found["model"] = name_without_folders(found.get("model", ""))
    loading = dict(found.get("loading", {}))
    if isinstance(loading.get("adapter"), str):
        loading["adapter"] = name_without_folders(loading["adapter"])
    return found | {"loading": loading}


def remember_places(weights_sha256: str, model: str, adapter: str) -> None:
    """Write down where a model and its adapter are, as far as they are paths.

    Failures are ignored: a replay then needs `--model`.
    """
    place = {
        name: os.path.abspath(expand_path(path))
        for name, path in (("model", model), ("adapter", adapter))
        if path and _exists(path)
    }
    known = _read(weights_sha256)
    if not place or (known and known[-1] == place):
        return
    path = _path(weights_sha256)
    others = [each for each in known if each != place]
    places = [*others[-_PLACES_MAX:], place]
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(places), encoding="utf-8")


def place_of_model(started: RunStarted) -> str:
    """Return the path of a recorded model on this machine; if unknown, its recorded name."""
    return _place(started, "model", started.model)


def place_of_adapter(started: RunStarted) -> str:
    """Return the path of a recorded adapter on this machine; if unknown, its recorded name."""
    return _place(started, "adapter", started.loading["adapter"])


def _place(started: RunStarted, kind: str, recorded: str) -> str:
    """Return the newest place that was written down for these weights under the recorded name.

    One that exists is preferred; else the error of loading it names the folder that is missing.
    """
    if not recorded or (os.path.isabs(recorded) and _exists(recorded)):
        return recorded
    end = Path(name_without_folders(recorded)).parts
    places = [str(each.get(kind, "")) for each in reversed(_read(started.weights_sha256))]
    found = [each for each in places if each and Path(each).parts[-len(end) :] == end]
    existing = [each for each in found if _exists(each)]
    return next(iter(existing or ([] if _exists(recorded) else found)), recorded)


def _exists(path: str) -> bool:
    try:
        return expand_path(path).exists()
    except (OSError, TokentapeError, ValueError):  # too long, with a NUL, of an unknown user
        return False


def _read(weights_sha256: str) -> list[dict[str, Any]]:
    try:
        places = json.loads(_path(weights_sha256).read_bytes())
    except (OSError, RecursionError, ValueError):
        return []
    return [each for each in places if isinstance(each, dict)] if isinstance(places, list) else []


def _path(weights_sha256: str) -> Path:
    # A recording may come from a stranger: its sha256 is no path.
    name = "".join(each for each in weights_sha256[:32] if each.isalnum())
    return cache_dir() / "places" / f"{name or 'none'}.json"
