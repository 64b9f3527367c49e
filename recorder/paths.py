"""Paths as users write them."""

import os
from pathlib import Path

from tokentape.recorder.errors import TokentapeError


def expand_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading `~` or `~user` replaced by that user's home folder.

    Every path of a command, an option, an environment variable and a public function comes through
    here, so that no folder named `~` is made where no shell has expanded it. Variables such as
    `$HOME` stay: a `$` may be part of a name. Raise TokentapeError for an unknown user; such a file
    is named by an absolute path.
    """
    text = os.fspath(path)
    if not text.startswith("~"):
        return Path(text)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = Path(text).parts[0]
        raise TokentapeError(
            f"{text}: {user} is no user's home folder on this machine: write the path from / on"
        )
    return Path(expanded)
