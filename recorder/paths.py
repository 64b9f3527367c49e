"""Paths as users write them."""

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

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


def is_relative(name: str) -> bool:
    """Return whether a path that a file names starts in a folder of that file, on any system.

    `/etc/hostname`, `C:x` and `~/x` do not.
    """
    drive_or_root = PureWindowsPath(name).anchor
    return not (drive_or_root or PurePosixPath(name).is_absolute() or name.startswith("~"))


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is in a folder at any depth, with all links resolved."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, or not a path of this system
        return False


def name_without_folders(path: str) -> str:
    """Return the last part of a path that starts outside of the working folder.

    Any other text is returned unchanged: a name of the hub, or a path below the working folder.
    """
    windows = PureWindowsPath(path)
    outside = windows.anchor or path.startswith("~") or ".." in windows.parts
    if not outside or "://" in path:
        return path
    parts = [each for each in re.split(r"[\\/]", path) if each not in ("", ".")]
    is_named = parts and parts[-1] != ".."
    return parts[-1] if is_named else os.path.basename(os.path.abspath(path))
