"""Turns of a batch, as the event loop of a server waits for them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from tokentape.endpoint.errors import (
    ApiError,
    ClientLeftError,
    error_of_turn,
    unavailable,
)
from tokentape.generation.batch import Batch
from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.generation.completions.completion import Completion
from tokentape.recorder.errors import TokentapeError
from tokentape.recorder.events import TokenSampled


@dataclass(frozen=True, slots=True)
class BegunTurn:
    """The recorded turn that a request got."""

    run_id: str
    turn: int


@dataclass(frozen=True, slots=True)
class StreamedToken:
    """A recorded token, and the text that became final with it."""

    event: TokenSampled
    piece: str


TurnUpdate = BegunTurn | StreamedToken | Completion
TurnEnd = Completion | TokentapeError
"""The reply of a turn, or what its client is told instead."""


class Complete(Protocol):
    """Runs a turn in the calling thread; see `Conversations.complete`."""

    def __call__(
        self,
        request: ChatRequest,
        *,
        on_run: Callable[[str], None] | None = None,
        on_token: Callable[[TokenSampled, str], None] | None = None,
    ) -> Completion: ...


OnEnd = Callable[["ServedTurn", TurnEnd, BaseException | None], None]
"""Called with a turn, its end, and the exception that ended it, or None."""


class ServedTurn:
    """A turn in a thread of the batch, or one that waits for a place in it.

    Its updates wait in the event loop for their reader, so that a slow client does not delay other
    turns. There is one update for each token of the reply.
    """

    def __init__(self, request: ChatRequest, complete: Complete, on_end: OnEnd) -> None:
        self.request = request
        self.begun: BegunTurn | None = None
        """None before its first token."""
        self._run_id = ""
        self._complete = complete
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._updates: asyncio.Queue[TurnUpdate | TokentapeError] = asyncio.Queue()
        self._left = threading.Event()
        self._waiting: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    async def updates(self) -> AsyncIterator[TurnUpdate]:
        """Yield how the turn advances, its completion last. Raise what ended it otherwise."""
        while True:
            update = await self._updates.get()
            if isinstance(update, TokentapeError):
                raise update
            yield update
            if isinstance(update, Completion):
                return

    async def completion(self) -> Completion:
        """Wait for the end of the turn. Return its reply, or raise what ended it otherwise."""
        async for update in self.updates():
            if isinstance(update, Completion):
                return update
        raise AssertionError("a turn ends with a completion or an error")

    def leave(self) -> None:
        """End the turn after its next token, or at once if it has no place in the batch yet."""
        self._left.set()
        if self._waiting is not None:
            self._waiting.cancel()

    async def run(
        self, places: asyncio.Semaphore, start: Callable[[Callable[[], None]], Any]
    ) -> None:
        """Run the turn once it has a place; `start` runs a function in a thread of the batch.

        The updates say how it ends.
        """
        self._waiting = asyncio.current_task()
        try:
            await places.acquire()
        except asyncio.CancelledError:
            self._post(ClientLeftError("the client left before its turn began"))
            return
        self._waiting = None
        try:
            start(self._run_turn)
            await self._ended.wait()
        except TokentapeError as error:
            self._post(error)
        finally:
            places.release()

    def abandon(self, error: TokentapeError) -> None:
        """End a turn whose job never ran, with an error; called in any thread."""
        self._call(self._finish, error)

    def _run_turn(self) -> None:
        """Run the turn in this thread of the batch."""
        end: TurnEnd
        cause: BaseException | None = None
        try:
            self._check_client()
            end = self._complete(self.request, on_run=self._on_run, on_token=self._on_token)
        except ClientLeftError as left:
            end = left
        except BaseException as error:
            # Not raised: who waits for this turn is its client. An interrupt would end the loop.
            end, cause = error_of_turn(error), error
        self._on_end(self, end, cause)
        self._call(self._finish, end)

    def _on_run(self, run_id: str) -> None:
        self._run_id = run_id

    def _on_token(self, event: TokenSampled, piece: str) -> None:
        if self.begun is None:
            self.begun = BegunTurn(self._run_id, event.turn)
            self._call(self._post, self.begun)
        self._call(self._post, StreamedToken(event, piece))
        self._check_client()

    def _check_client(self) -> None:
        if self._left.is_set():
            raise ClientLeftError("the client left before its reply was complete")

    def _call(self, function: Callable[[Any], None], argument: object) -> None:
        """Call a function in the event loop; nothing if the server did not wait for this turn."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, argument)

    def _post(self, update: TurnUpdate | TokentapeError) -> None:
        self._updates.put_nowait(update)

    def _finish(self, end: TurnEnd) -> None:
        self._post(end)
        self._ended.set()


class ServedTurns:
    """The turns of a server: as many at once as its batch has places, and some that wait.

    `start` is called in the event loop, the others in any thread.
    """

    def __init__(
        self, batch: Batch, complete: Complete, *, size: int, waiting_max: int, on_end: OnEnd
    ) -> None:
        """`on_end` is called in the thread of each turn that ends."""
        self._batch = batch
        self._complete = complete
        self._size = size
        self._waiting_max = waiting_max
        self._on_end = on_end
        self._places = asyncio.Semaphore(size)
        self._turns: dict[ServedTurn, asyncio.Task[None]] = {}
        self._stopped = threading.Event()

    def start(self, request: ChatRequest) -> ServedTurn:
        """Return a turn that begins as soon as it has a place.

        Raise ApiError if too many wait, or if the server ends.
        """
        self._check_not_stopped()
        if len(self._turns) >= self._size + self._waiting_max:
            raise unavailable(
                f"{self._size} requests are being answered and {self._waiting_max} wait: send this "
                "one again later",
                "overloaded",
            )
        turn = ServedTurn(request, self._complete, self._on_end)
        task = asyncio.create_task(turn.run(self._places, self._start_job))
        self._turns[turn] = task
        task.add_done_callback(lambda done: self._turns.pop(turn, None))
        return turn

    def stop(self) -> None:
        """Refuse further requests."""
        self._stopped.set()

    def _start_job(self, function: Callable[[], None]) -> None:
        """Run a function in the batch. Raise ApiError if the server ends."""
        self._check_not_stopped()
        self._batch.start(function)

    def _check_not_stopped(self) -> None:
        if self._stopped.is_set():
            raise _ending()

    def abandon(self) -> None:
        """End the turns whose jobs did not run, since their batch has ended."""
        for turn in list(self._turns):
            turn.abandon(_ending())


def _ending() -> ApiError:
    return unavailable("the server ends", "shutting_down")
