"""The files that a model was loaded from, and their state at that time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_SUFFIXES = (".bin", ".gguf", ".h5", ".json", ".msgpack", ".pt", ".pth", ".py", ".safetensors")

FileState = tuple[str, int, int, int, int]
"""Path, size in bytes, mtime and ctime in nanoseconds, and inode. Any write changes the ctime."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """The files and the settings that determine which tensors a loaded model has."""

    files: tuple[FileState, ...]
    settings: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        """Total size of the files."""
        return sum(size for _, size, *_ in self.files)

    def is_unchanged(self) -> bool:
        """Return whether all files still have the same state."""
        return file_states(Path(path) for path, *_ in self.files) == self.files


def file_states(paths: Iterable[Path]) -> tuple[FileState, ...]:
    """Return the states of the files, with links resolved; empty if one cannot be read."""
    try:
        return tuple(_file_state(path.resolve(strict=True)) for path in paths)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links
        return ()


def _file_state(path: Path) -> FileState:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def folder_states(folder: Path) -> tuple[FileState, ...]:
    """Return the states of all files in a model folder; empty for an adapter.

    The files of an adapter do not determine its base model.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    except OSError:
        return ()
    if any(path.name == "adapter_config.json" for path in paths):
        return ()
    return file_states(paths)
