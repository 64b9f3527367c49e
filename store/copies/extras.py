"""Libraries of extras, which are imported when they are needed."""

from collections.abc import Iterator
from contextlib import contextmanager

from tokentape.store.errors import MissingLibraryError


@contextmanager
def needing(*libraries: str, extra: str, what: str) -> Iterator[None]:
    """Raise MissingLibraryError, with the name of the extra, if a library cannot be imported.

    `libraries` are the top-level modules; `what` begins the sentence that says what needs them.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in libraries:
            raise
        raise MissingLibraryError(
            f'{what} needs {missing}, which is not installed: pip install "tokentape[{extra}]"'
        ) from None
