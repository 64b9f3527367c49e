"""Files of this machine on their way to an object store."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokentape.recorder.leftovers import remove_leftovers, temporary_folder
from tokentape.store.errors import StoreError


@contextmanager
def staging_folder() -> Iterator[Path]:
    """Yield a new folder, which is removed at the end, also of a process that was killed: the next
    one removes it. Raise StoreError if none can be made or it is full.
    """
    parent = Path(tempfile.gettempdir())
    try:
        remove_leftovers(parent)
        with temporary_folder(parent) as folder:
            yield folder
    except OSError as error:
        raise StoreError(f"cannot write to {parent}: {error}") from None
