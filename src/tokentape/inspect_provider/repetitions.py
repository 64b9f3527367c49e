"""Which of several equal requests this is: their replies are to differ, and to be repeatable."""

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tokentape.recorder.chat_messages import ChatMessage


class Repetitions:
    """Numbers equal requests from 0. A request that fails gives its number to the next one."""

    def __init__(self) -> None:
        self._taken: dict[bytes, set[int]] = defaultdict(set)
        self._lock = threading.Lock()

    @contextmanager
    def numbered(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
    ) -> Iterator[int]:
        """Yield the number of a request, the smallest that no equal one has."""
        asked = [[each.to_dict() for each in messages], list(tools), dict(settings)]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True, default=repr).encode()).digest()
        with self._lock:
            taken = self._taken[key]
            number = next(each for each in range(len(taken) + 1) if each not in taken)
            taken.add(number)
        try:
            yield number
        except BaseException:
            with self._lock:
                taken.discard(number)
            raise
