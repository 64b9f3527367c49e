"""What `view --serve` does: a server until Ctrl-C, with the model that its pages fork with."""

import copy
import html
import os
import signal
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokentape as tt
from tokentape import output
from tokentape.commands.forking import ForkRequest
from tokentape.commands.options import Store, find_recording, load_recorded_tokenizer, open_stored
from tokentape.commands.tool_files import (
    check_has_tools,
    read_tools_file,
    recorded_tools,
    run_tools_file,
)
from tokentape.replay.view_server.access import RequestAccess
from tokentape.replay.view_server.forks import ForkPoint, ForkWorker, served_fields
from tokentape.replay.view_server.routes import Routes
from tokentape.replay.view_server.server import HOST, ViewServer
from tokentape.replay.view_server.spelled_ids import SpelledIds, Speller
from tokentape.replay.view_server.stored_runs import StoredRuns
from tokentape.screen import err, out
from tokentape.store.live.database import DatabaseStore
from tokentape.streams import owns_streams

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords
    from tokentape.generation.tools.tools_file import ToolsFile
    from tokentape.recorder.events import RunStarted


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """The options of `view --serve`."""

    run: str | None
    """The run whose page is opened; None for the list of runs."""
    store: str
    port: int
    opens: bool
    model: str | None
    loading: "LoadingKeywords"
    tools: Path | None
    reports: Sequence[tuple[str, Mapping[str, Any]]]
    as_json: bool


def serve_runs(request: ServeRequest) -> int:
    """Serve the runs of a store until Ctrl-C; return the exit code."""
    if request.model is None and (request.loading or request.tools is not None):
        raise tt.ModelError("the options of a model need --model: which one pages go on with")
    opened = open_stored(request.store)
    worker: ForkWorker[tt.LoadedModel] | None = None
    spelled: SpelledIds | None = None
    try:
        path = "/"
        if request.run is not None:
            path = f"/run/{find_recording(opened, request.run, only=True).run_id}"
        with _listening(request.port) as server:
            worker = None if request.model is None else _fork_worker(request, opened)
            spelled = SpelledIds(speller_loader(worker))
            runs = StoredRuns(opened, served_fields(worker), request.reports, spelled)
            access = RequestAccess(port=server.port)
            server.answer = Routes(access, runs, worker, report=_report).answer
            url = f"http://{HOST}:{server.port}{path}?token={access.token}"
            _announce(url, opened, request)
            with (
                _terminated_as_interrupted(),
                suppress(KeyboardInterrupt),
                _opened_in_browser(url, request.opens),
            ):
                server.serve_forever()
            err.line("tokentape: the server has stopped")
    finally:
        if worker is not None:
            worker.stop()
        opened.close()
    is_busy = (worker is not None and worker.is_alive) or (
        spelled is not None and spelled.is_loading
    )
    if is_busy and owns_streams():
        # Python would end the threads within a call of torch, which aborts the process.
        out.flush()
        os._exit(0)
    return 0


@contextmanager
def _listening(port: int) -> Iterator[ViewServer]:
    try:
        server = ViewServer(port, report=_report)
    except OSError as error:
        raise tt.TokentapeError(
            f"cannot serve on port {port}: {error.strerror}; name another with --port, or leave "
            "it out for a free one"
        ) from None
    with server:
        yield server


def _announce(url: str, opened: Store, request: ServeRequest) -> None:
    if request.as_json:
        output.print_json({"url": url, "store": opened.where})
    else:
        out.line(url)
    out.flush()
    err.line(f"tokentape: serving {opened.where} on this machine only; Ctrl-C stops it")


def _report(line: str) -> None:
    err.line(f"tokentape: {line}")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the server as Ctrl-C does, so that a running fork records its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _opened_in_browser(url: str, opens: bool) -> Iterator[None]:
    """Open an address in a browser of the desktop, if there is one.

    The browser gets a file of this user that leads there: the arguments of a process, and the token
    in them, can be read by every user of the machine.
    """
    if not (opens and out.is_terminal and _has_desktop()):
        yield
        return
    page = f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(url)}">'
    # Readable by this user only.
    with tempfile.NamedTemporaryFile("w", prefix="tokentape-", suffix=".html") as file:
        file.write(page)
        file.flush()
        with suppress(webbrowser.Error):
            webbrowser.open(Path(file.name).as_uri())
        yield


def _has_desktop() -> bool:
    """Return whether a browser has a screen; otherwise one of the terminal would open."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _fork_worker(request: ServeRequest, opened: Store) -> "ForkWorker[tt.LoadedModel]":
    """Return the worker that loads the model of a command. Raise for mistakes found before that."""
    from tokentape.generation.models.model_names import check_loading

    model = request.model
    assert model is not None
    if not isinstance(opened, DatabaseStore):
        raise tt.StoreError(f"{request.store} is sealed, and a fork is recorded into its store")
    check_loading(model, request.loading)
    file = read_tools_file(request.tools)
    run_tools_file(file)
    started = _reference(request, opened)
    err.line(f"tokentape: loading {model} in the background")

    def load() -> "tt.LoadedModel":
        # It imports torch.
        from tokentape.generation.models.recorded_model import load_as_recorded

        if started is None:
            return tt.load_model(model, **request.loading)
        return load_as_recorded(model, started, **request.loading)

    return ForkWorker(model, load, fork_starter(request.store, file), on_change=_report)


def speller_loader(
    worker: "ForkWorker[tt.LoadedModel] | None",
) -> "Callable[[RunStarted], Speller | None]":
    """Return a function that loads what spells the ids of a run.

    It is the recorded tokenizer, or an equal one of the model of the worker; None without both.
    """

    def load(started: "RunStarted") -> Speller | None:
        from tokentape.generation.fingerprints import tokenizer_sha256
        from tokentape.generation.history.spelling import spell_tokens

        # Afterwards: what loads a model or a tokenizer changes settings of the whole process.
        lm = None if worker is None else worker.wait_for_model()
        tokenizer = load_recorded_tokenizer(started)
        if tokenizer is None and lm is not None:
            if tokenizer_sha256(lm.tokenizer) != started.tokenizer_sha256:
                return None
            # A tokenizer is not made for several threads: a fork may be using this one.
            tokenizer = copy.deepcopy(lm.tokenizer)
        return None if tokenizer is None else partial(spell_tokens, tokenizer)

    return load


def _reference(request: ServeRequest, opened: Store) -> "RunStarted | None":
    """Return the start of the run whose dtype and other settings the model is loaded with.

    It is the run that the command names, else the newest one; None in an empty store.
    """
    summaries = opened.summaries()
    if request.run is None and not summaries:
        return None
    return find_recording(opened, request.run or summaries[-1].run_id).started()


def fork_starter(
    store: str, file: "ToolsFile | None"
) -> "Callable[[tt.LoadedModel, ForkPoint, Callable[[str], None]], None]":
    """Return a function that runs a fork as `tokentape fork --continue` does, into the store."""

    def run(lm: "tt.LoadedModel", point: ForkPoint, begun: Callable[[str], None]) -> None:
        request = ForkRequest(
            at_turn=point.turn, at_token=point.token, token=point.token_id, continues=True
        )
        request.check()
        # A connection of this thread to write with; the pages only read.
        with tt.open_store(store, must_exist=True) as opened:
            if not isinstance(opened, DatabaseStore):
                raise tt.StoreError(f"{store} is sealed: it can only be read")
            parent = opened.recording(point.run_id)
            turn = request.turn_of(parent)
            started = parent.started()
            check_has_tools(parent.run_id, started, file)
            investigation = request.begin(
                opened,
                parent,
                lm,
                turn=turn,
                tools=recorded_tools(started, lm, file),
                name=started.name,
                other_model=True,
            )
            with investigation:
                begun(investigation.run_id)
                request.run(investigation, parent, turn)

    return run
