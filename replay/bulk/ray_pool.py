"""Verification of many runs by actors of a Ray cluster.

The same pieces as those of processes: an actor loads a model once and takes piece after piece. Ray
starts an actor again that died, on another node if its own is gone; meanwhile the others take its
piece, since the cluster may have no place for it.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from sqlalchemy.engine import URL

from tokentape.replay.bulk.pool import batches, cores
from tokentape.replay.bulk.sources import BulkOutcome, BulkSettings, RunSource, failed
from tokentape.replay.results.errors import ReplayError
from tokentape.store.errors import MissingLibraryError, StoreError
from tokentape.store.location import is_in_memory, parse_location, shown, sqlite_url

_DEATHS_ALONE = 2
"""A source that lost so many workers while it was alone with them is at fault."""
_DEATHS_EACH, _DEATHS_MIN = 4, 8
"""Deaths in a row, for each actor and in any case, after which the cluster is at fault."""
_PAUSE_S = 0.1
"""Between two questions to an actor that is being started again."""
_REACH_S = 10.0
_OBJECT_STORE_BYTES = 128 * 1024**2
"""The memory of a local cluster for what its processes exchange: outcomes, and a few settings."""


class Verifier(Protocol):
    """What an actor does: `BulkVerifier`."""

    def verify(self, sources: Sequence[RunSource]) -> list[list[BulkOutcome]]:
        """Return the outcomes of the runs of each source."""


def verify_on_ray(
    sources: Sequence[RunSource],
    settings: BulkSettings,
    *,
    jobs: int | None = None,
    address: str | None = None,
    make_verifier: Callable[[BulkSettings], Verifier] | None = None,
) -> Iterator[tuple[int, list[BulkOutcome]]]:
    """Verify the runs of sources by `jobs` actors; yield each source's index and outcomes.

    Without an address a cluster is started on this machine, and ended with the iteration, also if
    that is left early. Tapes are sent to the actors of another cluster; other stores, and the
    model, must be where they are here. A source whose workers die twice, alone, is an outcome that
    says so.

    Raise MissingLibraryError without Ray, ReplayError if the cluster cannot be used.
    """
    with _cluster(address, jobs) as ray:
        count = jobs or _places(ray, settings)
        actors = _Actors(ray, settings, make_verifier, min(count, len(sources)), address)
        try:
            yield from actors.verify(sources)
        finally:
            actors.end()


@dataclass(frozen=True, slots=True)
class _Piece:
    """A source as it is sent to an actor."""

    source: RunSource
    """With the path or URL for the actor."""
    tape: bytes | None = None
    """The content of the file, for an actor of another cluster."""


class _Actor:
    """The work of one process of a cluster."""

    def __init__(
        self,
        settings: BulkSettings,
        threads: int | None,
        make_verifier: Callable[[BulkSettings], Verifier] | None,
    ) -> None:
        if make_verifier is None:
            import torch

            from tokentape.replay.bulk.verifier import BulkVerifier

            make_verifier = BulkVerifier
            if threads is not None:
                torch.set_num_threads(threads)
        self._verifier = make_verifier(settings)

    def version(self) -> str:
        return version("tokentape")

    def verify(self, pieces: Sequence[_Piece]) -> list[list[BulkOutcome]]:
        with TemporaryDirectory(prefix="tokentape-") as folder:
            placed = [_placed(each, Path(folder, str(n))) for n, each in enumerate(pieces)]
            found = self._verifier.verify(placed)
            return [
                [_renamed(outcome, at.store, piece.source.store) for outcome in group]
                for group, at, piece in zip(found, placed, pieces, strict=True)
            ]


class _Actors:
    """The actors of a call, and what each of them works on."""

    def __init__(
        self,
        ray: Any,
        settings: BulkSettings,
        make_verifier: Callable[[BulkSettings], Verifier] | None,
        count: int,
        address: str | None,
    ) -> None:
        self._ray = ray
        self._is_elsewhere = address is not None
        self._deaths_max = max(_DEATHS_MIN, _DEATHS_EACH * count)
        self._deaths_in_a_row = 0
        self._deaths_alone: Counter[int] = Counter()
        kind = ray.remote(
            num_cpus=1, num_gpus=int(_needs_gpu(settings)), max_restarts=-1, max_task_retries=0
        )(_Actor)
        threads = None if self._is_elsewhere else max(1, cores() // count)
        given = (_absolute(settings), threads, make_verifier)
        self._actors = [kind.remote(*given) for _ in range(count)]
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Sequence[int]]] = {}
        for actor in self._actors:
            self._await(actor)

    def end(self) -> None:
        """End all actors at once."""
        for actor in self._actors:
            self._ray.kill(actor, no_restart=True)

    def verify(self, sources: Sequence[RunSource]) -> Iterator[tuple[int, list[BulkOutcome]]]:
        """Yield the index and the outcomes of each source."""
        due: deque[Sequence[int]] = deque(batches(len(sources), len(self._actors)))
        while self._actors and (due or any(batch for _, batch in self._running.values())):
            while due and self._idle:
                actor, batch = self._idle.pop(), due.popleft()
                pieces = [_piece(sources[index], self._is_elsewhere) for index in batch]
                self._running[actor.verify.remote(pieces)] = actor, batch
            (ready, *_), _ = self._ray.wait(list(self._running), num_returns=1)
            actor, batch = self._running.pop(ready)
            try:
                found = self._ray.get(ready)
            except self._ray.exceptions.RayError as error:
                if batch:
                    yield from self._after_death(error, batch, sources, due)
                    self._await(actor)
                else:
                    self._after_start(error, actor)
                continue
            self._idle.append(actor)
            if not batch:
                _check_version(found)
                continue
            self._deaths_in_a_row = 0
            for index, outcomes in zip(batch, found, strict=True):
                store = sources[index].store
                yield index, [_renamed(each, each.store, store) for each in outcomes]
        for index in (index for batch in due for index in batch):
            nobody = ReplayError("no worker of the Ray cluster is left that could verify it")
            yield index, [failed(sources[index], nobody)]

    def _await(self, actor: Any) -> None:
        """Have an actor answer once it has started: only then it is given a piece."""
        self._running[actor.version.remote()] = actor, ()

    def _after_start(self, error: Any, actor: Any) -> None:
        """Wait on for an actor that is started again; forget one that never will be.

        Raise ReplayError for one that cannot start.
        """
        if isinstance(error, self._ray.exceptions.ActorUnavailableError):
            time.sleep(_PAUSE_S)
            self._await(actor)
            return
        if getattr(error, "actor_init_failed", True):
            raise ReplayError(f"a worker of the Ray cluster could not start: {_last_line(error)}")
        self._actors.remove(actor)

    def _after_death(
        self,
        error: Any,
        batch: Sequence[int],
        sources: Sequence[RunSource],
        due: deque[Sequence[int]],
    ) -> Iterator[tuple[int, list[BulkOutcome]]]:
        """Try the sources of a lost actor again, each alone; yield those that are at fault."""
        self._deaths_in_a_row += 1
        if len(batch) == 1 and not getattr(error, "preempted", False):
            self._deaths_alone[batch[0]] += 1
        reason = _death(self._ray, error)
        lost = [index for index in batch if self._deaths_alone[index] >= _DEATHS_ALONE]
        again = [index for index in batch if index not in lost]
        if self._deaths_in_a_row >= self._deaths_max:
            lost += [*again, *(index for each in due for index in each)]
            again = []
            due.clear()
            reason += f", as {self._deaths_in_a_row - 1} others did before"
        # Last, so that what kills workers does not keep the others from the rest.
        due.extend([index] for index in again)
        for index in lost:
            yield index, [failed(sources[index], ReplayError(reason))]


@contextmanager
def _cluster(address: str | None, jobs: int | None) -> Iterator[Any]:
    """Yield Ray, connected to the cluster at the address, or to one of this machine.

    A connection that the process has already is used, and left.
    """
    # Nothing is sent to the makers of Ray, and what it sets for GPUs is said without a warning.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise MissingLibraryError(
            'the engine ray needs ray, which is not installed: pip install "tokentape[ray]"'
        ) from None
    if ray.is_initialized():
        yield ray
        return
    local: dict[str, Any] = {
        "num_cpus": jobs or cores(),
        "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    if address is not None:
        _check_reachable(address)
    handler = signal.getsignal(signal.SIGTERM)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address or "local",
            log_to_driver=False,
            configure_logging=False,
            **({} if address else local),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        place = f"at {address} " if address else ""
        raise ReplayError(f"the Ray cluster {place}cannot be used: {_last_line(error)}") from None
    finally:
        # Ray sets a handler that raises SystemExit, which ends the cluster; ours stays.
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and handler is not signal.SIG_DFL:
            signal.signal(signal.SIGTERM, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise ReplayError if no one listens there: Ray would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), _REACH_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReplayError(f"the Ray cluster at {address} cannot be used: {reason}") from None


def _places(ray: Any, settings: BulkSettings) -> int:
    """Return how many actors the cluster has a place for. Raise ReplayError for none."""
    kind = "GPU" if _needs_gpu(settings) else "CPU"
    count = int(ray.cluster_resources().get(kind, 0))
    if not count:
        raise ReplayError(f"the Ray cluster has no {kind} for a worker")
    return count


def _needs_gpu(settings: BulkSettings) -> bool:
    return str(settings.loading.get("device", "")).startswith("cuda")


def _check_version(found: str) -> None:
    ours = version("tokentape")
    if found != ours:
        raise ReplayError(
            f"a worker of the Ray cluster has tokentape {found}, and this is {ours}: install the "
            "same version on all nodes"
        )


def _absolute(settings: BulkSettings) -> BulkSettings:
    """Return the settings with whole paths: an actor runs in a folder of its own."""
    model, loading = settings.model, dict(settings.loading)
    if model is not None and Path(model).exists():
        model = str(Path(model).absolute())
    adapter = loading.get("adapter")
    if adapter is not None and Path(adapter).exists():
        loading["adapter"] = str(Path(adapter).absolute())
    return replace(settings, model=model, loading=loading)


def _piece(source: RunSource, is_elsewhere: bool) -> _Piece:
    """Return a source as an actor can read it. What cannot be read here is the actor's error."""
    try:
        place = parse_location(source.store)
        if isinstance(place, Path):
            if is_elsewhere and place.is_file() and place.suffix == ".tape":
                return _Piece(source, place.read_bytes())
            return _Piece(replace(source, store=str(place.absolute())))
        if isinstance(place, URL):
            return _Piece(replace(source, store=_whole_url(source.store, place)))
        return _Piece(source)  # in an object store
    except (StoreError, OSError):
        return _Piece(source)


def _whole_url(text: str, url: URL) -> str:
    """Return the URL with a whole path if it names a file; that of a server has its password."""
    if url.get_backend_name() != "sqlite" or is_in_memory(url):
        return text
    query: Mapping[str, Any] = url.query
    return shown(sqlite_url(Path(str(url.database)).absolute(), **query))


def _placed(piece: _Piece, folder: Path) -> RunSource:
    """Return the source of a piece, after writing its tape to a file."""
    if piece.tape is None:
        return piece.source
    folder.mkdir()
    path = folder / Path(piece.source.store).name
    path.write_bytes(piece.tape)
    return replace(piece.source, store=str(path))


def _renamed(outcome: BulkOutcome, here: str, store: str) -> BulkOutcome:
    """Return an outcome with the store as the user named it, also in its error."""
    if here == store:
        return outcome
    return replace(outcome, store=store, error=outcome.error.replace(here, store))


def _death(ray: Any, error: Any) -> str:
    """Return why there is no outcome, without the ids of Ray's processes."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"the worker that verified it failed: {_last_line(error)}"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "the worker that verified it was ended by Ray: its node ran out of memory"
    return "the worker that verified it died, or its node was lost (out of memory?)"


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]
