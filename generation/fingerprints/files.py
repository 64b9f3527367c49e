"""The files that a model was loaded from, as they were then."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SUFFIXES = (".bin", ".gguf", ".h5", ".json", ".msgpack", ".pt", ".pth", ".py", ".safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """What changes when a file is written or replaced.

    `changed_ns` is when anything about it changed, which cannot be set back as `modified_ns` can.
    """

    path: str
    bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Raises OSError."""
        found = path.stat()
        return cls(
            path=str(path),
            bytes=found.st_size,
            modified_ns=found.st_mtime_ns,
            changed_ns=found.st_ctime_ns,
            inode=found.st_ino,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFiles:
    """`settings` are how the model was asked for, and what else decides which tensors it has."""

    stamps: tuple[FileStamp, ...]
    settings: Mapping[str, str]

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.stamps)

    def are_unchanged(self) -> bool:
        return stamps_of(Path(each.path) for each in self.stamps) == self.stamps


def model_files(folder: Path) -> tuple[FileStamp, ...]:
    """Of every file in a folder that a model can be made of; none where it is not made of these.

    That is so for an adapter, whose model is somewhere else.
    """
    try:
        paths = sorted(each for each in folder.iterdir() if each.suffix in _SUFFIXES)
        if any(each.name == "adapter_config.json" for each in paths):
            return ()
        return stamps_of(paths)
    except OSError:
        return ()


def stamps_of(paths: Iterable[Path]) -> tuple[FileStamp, ...]:
    """Of the files that the paths lead to; none where one of them cannot be looked at."""
    try:
        return tuple(FileStamp.of(each.resolve(strict=True)) for each in paths)
    # A circle of links.
    except (OSError, RuntimeError):
        return ()
