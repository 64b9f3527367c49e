"""The pages of a server in a browser: the list, a run that grows, a fork that a page starts."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import pytest

import tokentape as tt
from benchmarks.chromium import Chromium, OpenedPage, Scheme
from tests.browser.probe import Probe
from tests.store.made_families import RESUMED
from tokentape.commands.view_serving import fork_starter
from tokentape.recorder import Recorder
from tokentape.recorder.events import MessageAdded
from tokentape.replay.view_server.access import RequestAccess
from tokentape.replay.view_server.forks import ForkPoint, ForkWorker, served_fields
from tokentape.replay.view_server.routes import Routes
from tokentape.replay.view_server.server import HOST, ViewServer
from tokentape.replay.view_server.stored_runs import StoredRuns
from tokentape.store import DatabaseStore


class Server:
    """A server of a copy of the recorded runs; `address` has its token."""

    def __init__(self, server: ViewServer, url: str, store: DatabaseStore) -> None:
        self.store = store
        self._access = RequestAccess(port=server.port)
        self._server = server
        self._url = url
        self.serve(None)

    def serve(self, worker: ForkWorker[Any] | None) -> None:
        """Answer from now on, with a model or without."""
        runs = StoredRuns(self.store, served_fields(worker))
        self._server.answer = Routes(self._access, runs, worker).answer

    def serve_with(self, lm: tt.LoadedModel) -> None:
        """Let pages fork with a model."""
        self.serve(ForkWorker("tiny", lambda: lm, fork_starter(self._url, None)))

    def address(self, path: str) -> str:
        return f"http://{HOST}:{self._server.port}{path}?token={self._access.token}"


@pytest.fixture
def server(probe: Probe, tmp_path: Path) -> Iterator[Server]:
    copy = tmp_path / "runs.db"
    shutil.copy(probe.folder / "probe.db", copy)
    store = tt.open_store(copy)
    assert isinstance(store, DatabaseStore)
    with ViewServer(0) as found:
        made = Server(found, f"sqlite:///{copy}", store)
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            found.shutdown()
            thread.join()
    store.close()


@contextmanager
def at(chromium: Chromium, address: str) -> Iterator[OpenedPage]:
    """Open an address; check that the page complained of nothing and left its server alone."""
    with chromium.open_page() as found:
        found.visit(address)
        yield found
        origin = "/".join(address.split("/")[:3]) + "/"
        assert [each for each in found.requests if not each.startswith(origin)] == []
        assert found.messages == []


def test_the_list_is_filtered_and_two_runs_of_it_are_compared(
    chromium: Chromium, server: Server, probe: Probe
) -> None:
    with at(chromium, server.address("/")) as opened:
        page = opened.page
        page.get_by_text("2 runs, the newest first").wait_for()
        assert "token=" not in page.url
        page.get_by_label("Name", exact=True).fill("other")
        page.get_by_text("1 run found").wait_for()
        assert page.url.endswith("/?name=other")
        page.reload()
        page.get_by_text("1 run found").wait_for()
        page.get_by_role("button", name="Clear").click()
        page.get_by_text("2 runs, the newest first").wait_for()
        # The newest run is chosen first, and the older one is a.
        for box in page.get_by_role("checkbox").all():
            box.check()
        page.get_by_role("link", name="Compare the two chosen runs").click()
        page.get_by_text(probe.fork_id[:8]).first.wait_for()
        assert page.url.endswith(f"/diff?a={probe.run_id}&b={probe.fork_id}")
        page.get_by_role("link", name="All runs").click()
        page.get_by_text("2 runs, the newest first").wait_for()
        page.get_by_role("link", name="other word").click()
        page.get_by_role("link", name="All runs").wait_for()
        assert page.url.endswith(f"/run/{probe.fork_id}")


def test_a_page_grows_with_its_run_and_says_when_the_run_is_erased(
    chromium: Chromium, server: Server, probe: Probe
) -> None:
    run_id = probe.run_id
    log = Recorder.resume(server.store, server.store.recording(run_id))
    log.record(RESUMED)
    with at(chromium, server.address(f"/run/{run_id}")) as opened:
        page = opened.page
        page.get_by_text("Live: this page grows with the run").wait_for()
        text = "A later question <b>?</b>"
        log.record(MessageAdded(role="user", content=text, text=text, ids=(1, 2)))
        page.get_by_text(text).first.wait_for()
        server.store.erase(probe.fork_id)
        server.store.erase(run_id, reason="private")
        page.get_by_text("was erased").wait_for()
        opened.messages[:] = [each for each in opened.messages if "404" not in each]


def test_a_page_unfolds_a_result_that_it_fetches(
    chromium: Chromium, server: Server, probe: Probe
) -> None:
    with at(chromium, server.address(f"/run/{probe.run_id}")) as opened:
        page = opened.page
        details = page.locator("details.payload").first
        details.locator("summary").click()
        details.get_by_text("num_parameters").wait_for()
        assert any("/payload/" in each for each in opened.requests)


def test_a_page_starts_a_fork_and_links_to_it(
    chromium: Chromium, server: Server, probe: Probe, tiny_folder: Path
) -> None:
    server.serve_with(tt.load_model(tiny_folder))
    with at(chromium, server.address(f"/run/{probe.run_id}")) as opened:
        page = opened.page
        page.goto(f"{page.url}#t2.s3")
        page.get_by_role("button", name="Start it here").first.click()
        page.get_by_text("The fork has finished.").wait_for(timeout=60_000)
        page.get_by_role("link", name="Open the fork").click()
        page.get_by_text("Forked from").first.wait_for()
    newest = server.store.summaries()[-1]
    assert (newest.parent_run_id, newest.forked_at_turn) == (probe.run_id, 2)


def test_a_fork_that_fails_after_its_start_says_so_on_the_page(
    chromium: Chromium, server: Server, probe: Probe
) -> None:
    def fail(model: None, point: ForkPoint, begun: Callable[[str], None]) -> None:
        begun(probe.fork_id)
        time.sleep(0.2)
        raise tt.ModelError("no memory is left")

    server.serve(ForkWorker("tiny", lambda: None, fail))
    with at(chromium, server.address(f"/run/{probe.run_id}")) as opened:
        page = opened.page
        page.goto(f"{page.url}#t2.s3")
        page.get_by_role("button", name="Start it here").first.click()
        page.get_by_text("no memory is left").wait_for()


def test_the_list_says_which_numbers_are_those_of_a_forks_own_turns(
    chromium: Chromium, server: Server
) -> None:
    with at(chromium, server.address("/")) as opened:
        fork, parent = opened.page.locator("tbody tr").all()
        own = server.store.summaries()[-1]
        numbers = [f"{own.turns} own", f"{own.generated_tokens} own"]
        assert fork.locator("td.n").all_inner_texts() == numbers
        assert "own" not in " ".join(parent.locator("td.n").all_inner_texts())
        filters = opened.page.get_by_role("search").locator("input, select, button").all()
        tops = {round(box["y"]) for each in filters if (box := each.bounding_box())}
        assert len(tops) == 1


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_the_list_can_be_read_on_a_phone_and_in_the_dark(
    chromium: Chromium, server: Server, width: int, scheme: Scheme
) -> None:
    from tests.browser.test_accessibility import check_shown

    with chromium.open_page(width=width, scheme=scheme) as opened:
        opened.visit(server.address("/"))
        opened.page.get_by_text("2 runs, the newest first").wait_for()
        check_shown(opened.page)
