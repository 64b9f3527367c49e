"""The lock of a model, which waiting threads get in their order."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


def _closed() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


@dataclass(slots=True, eq=False)
class LockPlace:
    """A place in the queue for a lock, for one thread to wait at."""

    holder: object
    depth: int = 1
    """How often the holder has taken the lock."""
    _gate: threading.Lock = field(default_factory=_closed)

    def wait(self) -> None:
        """Wait until the lock is granted to this place."""
        self._gate.acquire()

    def grant(self) -> None:
        """Let the waiting thread go on."""
        self._gate.release()


class ModelLock:
    """A lock that its holder can take again, and give up for a while with `suspend`.

    Threads with one holder share it: that of a tool, and that of the turn which waits for the tool.
    """

    def __init__(self) -> None:
        self.is_shared = False
        """Whether a batch uses the model, whose runs give up the lock while they wait."""
        self._mutex = threading.Lock()
        self._waiting: deque[LockPlace] = deque()
        self._last: LockPlace | None = None
        self._holder: object | None = None
        self._depth = 0

    @property
    def is_wanted(self) -> bool:
        """Whether a thread waits for the lock in the queue."""
        return bool(self._waiting)

    def acquire(self, holder: object, *, last: bool = False) -> None:
        """Take the lock, after all threads that wait for it.

        With `last` also after those that begin to wait meanwhile; one thread at a time may do so.
        """
        with self._mutex:
            if self._holder is holder:
                self._depth += 1
                return
            place = LockPlace(holder)
            if last:
                self._last = place
            else:
                self._waiting.append(place)
            self._grant_next()
        try:
            place.wait()
        except BaseException:
            self._leave(place)
            raise

    def release(self) -> None:
        """Give up the lock if the holder has done so as often as it took the lock."""
        with self._mutex:
            self._depth -= 1
            if not self._depth:
                self._free()

    def suspend(self) -> LockPlace:
        """Give up the lock however often it was taken. Return the place to wait at for it again.

        The place is in no queue until `queue` is called.
        """
        with self._mutex:
            place = LockPlace(self._holder, self._depth)
            self._free()
        return place

    def queue(self, places: Iterable[LockPlace]) -> None:
        """Append places to the queue, in their order."""
        with self._mutex:
            self._waiting.extend(places)
            self._grant_next()

    def _free(self) -> None:
        self._holder, self._depth = None, 0
        self._grant_next()

    def _grant_next(self) -> None:
        if self._holder is not None:
            return
        if self._waiting:
            place = self._waiting.popleft()
        elif self._last is not None:
            place, self._last = self._last, None
        else:
            return
        self._holder, self._depth = place.holder, place.depth
        place.grant()

    def _leave(self, place: LockPlace) -> None:
        """Leave the queue, or give the lock up if it was granted."""
        with self._mutex:
            if place in self._waiting:
                self._waiting.remove(place)
            elif self._last is place:
                self._last = None
            else:
                self._free()
