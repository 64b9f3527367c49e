"""A browser for the tests of this folder."""

from collections.abc import Iterator

import pytest

from benchmarks.chromium import Chromium, NoBrowserError, open_chromium


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """Start a browser for a file of tests; skip them where there is none.

    Not for the session: playwright runs an event loop in this thread until the browser ends.
    """
    try:
        opening = open_chromium()
        browser = opening.__enter__()
    except NoBrowserError as error:
        pytest.skip(str(error))
    try:
        yield browser
    finally:
        opening.__exit__(None, None, None)
