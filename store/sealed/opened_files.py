"""The files of a path or URL: those of a folder, of a tape, or of a folder in an object store."""

from pathlib import Path

from tokentape.store.objects.object_path import ObjectPath
from tokentape.store.sealed.object_files import ObjectFiles
from tokentape.store.sealed.sealed_files import Folder, SealedFiles
from tokentape.store.sealed.tape import Tape


def open_files(path: Path | ObjectPath) -> SealedFiles:
    """Return the files of sealed runs. Raise StoreError if there is neither a folder nor a tape."""
    if isinstance(path, Path):
        return Folder(path) if path.is_dir() else Tape(path)
    if path.kind() == "file":
        return Tape(path)
    files = ObjectFiles(path)
    files.check_schema()
    return files
