"""A browser for the tests of this folder, and the pages of a recorded run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import tokentape as tt
from benchmarks.chromium import Chromium, NoBrowserError, OpenedPage, open_chromium
from tests.browser.probe import TAMPERED, Probe, record_probe
from tokentape.replay.view.document import view_document
from tokentape.replay.view.page import view_page


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


@pytest.fixture
def opened(chromium: Chromium) -> Iterator[OpenedPage]:
    """Yield an empty page; check that it was quiet and requested nothing but files."""
    with chromium.open_page() as found:
        yield found
        check_quiet(found)


def check_quiet(opened: OpenedPage) -> None:
    """Check that no page complained, ran a dialog, or requested anything but itself."""
    assert opened.messages == []
    assert [each for each in opened.requests if not each.startswith("file://")] == []
    assert len({each.partition("#")[0] for each in opened.requests}) <= 1


@pytest.fixture(scope="session")
def probe(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """Return the recorded runs; see `probe.py`."""
    return record_probe(tt.load_model(tiny_folder), tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def run_page(probe: Probe) -> Path:
    """Return the page of the recorded run, with the replay of a tampered copy."""
    with tt.open_store(probe.url) as store:
        document = view_document(
            store.recording(probe.run_id),
            verdicts=store.verdicts(probe.run_id),
            further_reports=[(TAMPERED, probe.tampered.to_dict())],
        )
    path = probe.folder / "run.html"
    path.write_text(view_page(document), encoding="utf-8")
    return path
