"""Lists of weights that were made before, so that a model is not hashed at every start.

A file of the user's cache folder holds one, with what it is of: the files that the model was
loaded from as they were, how it was loaded, and a sample of its tensors. Whatever is wrong with
such a file makes it a miss.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokentape.generation.fingerprints.files import LoadedFiles
from tokentape.generation.fingerprints.weights_manifest import WeightsManifest
from tokentape.recorder.atomic_write import TMP_PREFIX, atomic_write

_FORMAT = "tokentape-fingerprints-1"
_KEPT_MAX = 100
_BYTES_MAX = 64 * 1024**2
_OURS = re.compile(rf"[0-9a-f]{{32}}\.json|{re.escape(TMP_PREFIX)}.*")


def find_list(folder: Path, files: LoadedFiles, sample: str) -> WeightsManifest | None:
    """The list that was kept of a model from these files, if its sample is the same."""
    path = folder / _file_name(files)
    try:
        if not path.is_file() or path.stat().st_size > _BYTES_MAX:
            return None
        described = json.loads(path.read_bytes())
        entry = described["entry"]
        if described["sha256"] != _sum(entry) or entry["made_of"] != _made_of(files):
            return None
        if entry["format"] != _FORMAT or entry["sample"] != sample:
            return None
        found = WeightsManifest.read(entry["list"].encode())
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        return None
    with suppress(OSError):
        os.utime(path)
    return found


def keep_list(folder: Path, files: LoadedFiles, sample: str, weights: WeightsManifest) -> None:
    """Keep it for the next start, in place of one of the same files as they were before.

    Where that cannot be, nothing is kept. Of all lists those that were used last stay.
    """
    entry = {
        "format": _FORMAT,
        "made_of": _made_of(files),
        "sample": sample,
        "list": weights.payload.decode(),
    }
    written = json.dumps({"entry": entry, "sha256": _sum(entry)}).encode()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / _file_name(files)) as tmp_path:
            tmp_path.write_bytes(written)
        _forget_oldest(folder)


def _forget_oldest(folder: Path) -> None:
    """What a killed process left goes with the lists that nobody used."""
    ages = []
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name):
            with suppress(OSError):
                ages.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(ages, reverse=True)[_KEPT_MAX:]:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _file_name(files: LoadedFiles) -> str:
    """Not of the files as they are: the list of what was there before is to be replaced."""
    return _sum(dict(files.settings))[:32] + ".json"


def _made_of(files: LoadedFiles) -> dict[str, Any]:
    return {"files": [asdict(each) for each in files.stamps], "settings": dict(files.settings)}


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
