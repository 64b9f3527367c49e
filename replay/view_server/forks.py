"""Forks that a served page starts: a model that is loaded once, and one fork at a time."""

import ctypes
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Generic, TypeVar

from tokentape.replay.view_server.messages import RefusedError

_STOP_S = 10.0
_INT_MAX = 2**31 - 1

Model = TypeVar("Model")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkPoint:
    """A token of a run, and the token that the fork has in its place."""

    run_id: str
    turn: int
    token: int
    """Its index in the turn, from zero."""
    token_id: int

    @classmethod
    def of_body(cls, body: bytes) -> "ForkPoint":
        """Return the fork that the body of a request describes. Raise RefusedError."""
        try:
            given = json.loads(body)
            run_id = given["run_id"]
            numbers = [given[name] for name in ("turn", "token", "token_id")]
        except (ValueError, KeyError, TypeError, RecursionError):
            numbers, run_id = [], None
        are_right = bool(numbers) and all(type(each) is int for each in numbers)
        if not (isinstance(run_id, str) and are_right and 0 <= min(numbers) <= max(numbers)):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the request names no token of a run")
        turn, token, token_id = numbers
        if max(numbers) > _INT_MAX:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the request names no token of a run")
        return cls(run_id=run_id, turn=turn, token=token, token_id=token_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkStatus:
    """A fork that was started, and how far it is."""

    point: ForkPoint
    state: str = "waiting"
    """`waiting` for the model, `running`, `finished`, or `failed`."""
    run_id: str | None = None
    """The id of the fork, once it has begun."""
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields for the page."""
        parent = {"parent": self.point.run_id, "turn": self.point.turn, "token": self.point.token}
        rest = {"token_id": self.point.token_id, "state": self.state, "run_id": self.run_id}
        return parent | rest | {"error": self.error}


class ForkWorker(Generic[Model]):
    """A thread that loads the model, then runs the forks that pages start, one at a time."""

    def __init__(
        self,
        model: str,
        load: Callable[[], Model],
        run: Callable[[Model, ForkPoint, Callable[[str], None]], None],
        on_change: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Load the model in the background.

        `run` runs a fork to its end, and calls its last argument with the id of the new run.
        `on_change` is called with a line when the model is loaded, and when a fork begins or ends.
        """
        self.model = model
        self._load, self._run, self._on_change = load, run, on_change
        self._changed = threading.Condition()
        self._model_state, self._model_error = "loading", ""
        self._loaded: Model | None = None
        self._fork: ForkStatus | None = None
        self._stopping = False
        # A daemon, so that a model that cannot be interrupted does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="forks", daemon=True)
        self._thread.start()

    def start(self, point: ForkPoint) -> None:
        """Have a fork started. Raise RefusedError while another one runs, or without a model."""
        with self._changed:
            if self._model_state == "failed":
                raise RefusedError(
                    HTTPStatus.CONFLICT, f"the model is not loaded: {self._model_error}"
                )
            if self._fork is not None and self._fork.state in ("waiting", "running"):
                raise RefusedError(
                    HTTPStatus.CONFLICT, "another fork is running: wait until it has ended"
                )
            self._fork = ForkStatus(point=point)
            self._changed.notify_all()

    def as_json(self) -> dict[str, Any]:
        """Return the state of the model and of the last fork, for the page."""
        with self._changed:
            fork = None if self._fork is None else self._fork.as_json()
            model = {"name": self.model, "state": self._model_state, "error": self._model_error}
            return {"model": model, "fork": fork}

    def wait_for_model(self) -> Model | None:
        """Wait until the model is loaded, and return it; None if it cannot be loaded."""
        with self._changed:
            self._changed.wait_for(lambda: self._model_state != "loading")
            return self._loaded

    def stop(self) -> None:
        """Interrupt a running fork, as Ctrl-C would, so that it can be resumed, and wait for it."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            is_running = self._fork is not None and self._fork.state == "running"
        ident = self._thread.ident
        if is_running and ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt)
            )
        if is_running:
            self._thread.join(_STOP_S)

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs: the process must not wait for it."""
        return self._thread.is_alive()

    def _work(self) -> None:
        try:
            model = self._load()
        except Exception as error:
            with self._changed:
                self._model_state, self._model_error = "failed", one_line(error)
                self._end_fork(f"the model is not loaded: {self._model_error}")
                self._changed.notify_all()
            self._on_change(f"the model {self.model} is not loaded: {one_line(error)}")
            return
        with self._changed:
            self._model_state, self._loaded = "ready", model
            self._changed.notify_all()
        self._on_change(f"the model {self.model} is loaded: pages can go on from any token")
        while (point := self._next_fork()) is not None:
            self._run_fork(model, point)

    def _next_fork(self) -> ForkPoint | None:
        """Wait for a fork, and return it; None when the server stops."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or (self._fork is not None and self._fork.state == "waiting")
            )
            if self._stopping or self._fork is None:
                return None
            self._fork = replace(self._fork, state="running")
            return self._fork.point

    def _run_fork(self, model: Model, point: ForkPoint) -> None:
        try:
            self._run(model, point, self._begun)
        except KeyboardInterrupt:
            self._end_fork("it was interrupted: the server was stopped")
        except Exception as error:
            self._end_fork(one_line(error))
        else:
            self._end_fork("")

    def _begun(self, run_id: str) -> None:
        with self._changed:
            if self._fork is not None:
                self._fork = replace(self._fork, run_id=run_id)
        self._on_change(f"fork {run_id} begins")

    def _end_fork(self, error: str) -> None:
        with self._changed:
            if self._fork is None:
                return
            self._fork = replace(self._fork, state="failed" if error else "finished", error=error)
            run_id = self._fork.run_id
        named = f"fork {run_id}" if run_id else "a fork"
        self._on_change(f"{named} failed: {error}" if error else f"{named} finished")


def one_line(error: BaseException) -> str:
    """Return an error's text on one line; its type if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def served_fields(worker: "ForkWorker[Any] | None") -> Mapping[str, Any]:
    """Return what a page says of a server: whether forks can be started, and with which model."""
    return {"can_fork": worker is not None, "model": "" if worker is None else worker.model}
