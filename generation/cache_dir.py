"""The user's cache folder, for files that can be created again."""

import os
from pathlib import Path

from tokentape.recorder.paths import expand_path


def cache_dir() -> Path:
    """Return the project's cache folder, which may not exist or not be writable."""
    return expand_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "tokentape"
