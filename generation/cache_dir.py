"""The folder in which a user's programs keep what they can make again."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """It need not be there yet, and it need not be possible to write to it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "tokentape"
