"""The user's cache folder, for files that can be created again."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the project's cache folder, which may not exist or not be writable."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "tokentape"
