"""A turn that runs in a batch, and the coroutine that waits for it."""

import threading
from concurrent.futures import Future

import anyio
import anyio.to_thread

from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.generation.completions.completion import Completion
from tokentape.generation.completions.conversations import Conversations
from tokentape.inspect_provider.shared_model import SharedModel
from tokentape.recorder import TokentapeError


class TurnAbandonedError(TokentapeError):
    """Inspect cancelled the request of a turn."""


class _Interrupt(KeyboardInterrupt):
    """Ends a turn after its next token, as Ctrl-C does: its run is recorded as interrupted."""


class PendingTurn:
    """A request that waits for room in a batch, or whose reply is being generated."""

    def __init__(self, conversations: Conversations, request: ChatRequest) -> None:
        self._conversations = conversations
        self._request = request
        self._abandoned = threading.Event()
        self._reply: Future[Completion] = Future()

    async def run_in(self, model: SharedModel, *, batch_size: int) -> Completion:
        """Return the reply, without blocking the event loop. If cancelled, abandon the turn."""

        def start_and_wait() -> Completion:
            try:
                model.start(self._run, batch_size=batch_size)
            except BaseException as error:
                self._reply.set_exception(error)
            return self._reply.result()

        # A thread for each request: they wait for each other's forwards.
        limiter = anyio.CapacityLimiter(1)
        try:
            return await anyio.to_thread.run_sync(
                start_and_wait, abandon_on_cancel=True, limiter=limiter
            )
        except anyio.get_cancelled_exc_class():
            self.abandon()
            raise

    def _run(self) -> None:
        """Run the turn, in a thread of the batch."""
        try:
            self._check()
            reply = self._conversations.complete(
                self._request, on_token=lambda token, piece: self._check()
            )
        except _Interrupt:
            self._reply.set_exception(TurnAbandonedError("the request was cancelled"))
        except BaseException as error:
            self._reply.set_exception(error)
        else:
            self._reply.set_result(reply)

    def _check(self) -> None:
        """Raise an interrupt if nobody waits for the reply any more."""
        if self._abandoned.is_set():
            raise _Interrupt

    def abandon(self) -> None:
        """End the turn after its next token, or before it begins."""
        self._abandoned.set()

    @property
    def is_done(self) -> bool:
        """Whether the turn has ended, with a reply or an error."""
        return self._reply.done()

    def wait(self) -> None:
        """Wait until the turn has ended, with a reply or an error."""
        self._reply.exception()
