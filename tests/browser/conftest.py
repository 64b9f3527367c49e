"""A browser for the tests of this folder, and the pages of a recorded run."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tokentape as tt
from benchmarks.chromium import Chromium, NoBrowserError, OpenedPage, open_chromium
from tests.browser.hostile_runs import record_attack
from tests.browser.probe import TAMPERED, Probe, record_probe
from tokentape.replay.view.diff_document import diff_document
from tokentape.replay.view.page import view_page
from tokentape.replay.view.stored import stored_document
from tokentape.store import DatabaseStore

DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Waits until what a click has unfolded is drawn: a page fills folds when they are open."""


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
        document = stored_document(
            store,
            store.recording(probe.run_id),
            reports=[(TAMPERED, probe.tampered.to_dict())],
        )
    path = probe.folder / "run.html"
    path.write_text(view_page(document), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def diff_page(probe: Probe) -> Path:
    """Return the page of the diff of the run and its fork."""
    with tt.open_store(probe.url) as store:
        runs = [store.recording(each) for each in (probe.run_id, probe.fork_id)]
        document = diff_document(*runs)
    path = probe.folder / "diff.html"
    path.write_text(view_page(document), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def hostile_page(
    make_lm: Callable[..., tt.LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the page of a run that is full of attacks on it."""
    folder = tmp_path_factory.mktemp("hostile")
    with tt.open_store(folder / "attack.db") as store:
        assert isinstance(store, DatabaseStore)
        run_id = record_attack(make_lm("llama", max_position_embeddings=8192), store)
        document = stored_document(store, store.recording(run_id))
    path = folder / "attack.html"
    path.write_text(view_page(document), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def served_url(probe: Probe, tiny_folder: Path) -> Iterator[str]:
    """Serve the recorded runs with their model; return the address with the token."""
    command = [
        *(sys.executable, "-m", "tokentape", "view", "--serve", "--no-open", "--json"),
        *("--store", probe.url, "--model", str(tiny_folder)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        try:
            yield str(json.loads(b"".join(iter(server.stdout.readline, b"}\n")) + b"}")["url"])
        finally:
            server.send_signal(signal.SIGINT)
            server.stdout.read()
