"""Errors of tokentape in the way that Inspect shows mistakes of its user: a line, no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from tokentape.recorder import TokentapeError


@contextmanager
def refusals_shown() -> Iterator[None]:
    """Within this context, raise Inspect's PrerequisiteError for an error of tokentape.

    An Inspect that keeps that class elsewhere shows the error with its traceback.
    """
    try:
        yield
    except TokentapeError as error:
        try:
            from inspect_ai._util.error import PrerequisiteError
        except ImportError:
            raise error from None
        # Inspect prints it as markup of rich.
        text = str(error).replace("[", "\\[")
        raise PrerequisiteError(f"tokentape: {text}") from error
