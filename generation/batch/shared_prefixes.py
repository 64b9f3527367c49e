"""System prompts that one member of a batch computes for all others that have the same."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from transformers.cache_utils import Cache

from tokentape.generation import hf

_PREFIXES_MAX = 4
"""The prefixes that are kept, the latest used ones: plans in a batch are few."""


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The keys and values of a prompt."""

    cache: Cache
    chunks: tuple[int, ...]
    """The lengths of the forwards that computed them, in tokens."""


@dataclass(slots=True, eq=False)
class SharedPrefixes:
    """The newest prefixes that members of a batch computed.

    The same forwards give every member the same bits. Members call `get` while they use the model.
    """

    pause: Callable[[], None]
    """Lets other members use the model."""
    _prefixes: OrderedDict[Hashable, SharedPrefix] = field(default_factory=OrderedDict)
    _computing: set[Hashable] = field(default_factory=set)

    def get(self, name: Hashable, compute: Callable[[], SharedPrefix]) -> tuple[SharedPrefix, bool]:
        """Return a prefix of one's own, and whether another member computed it.

        `name` holds all that its bits depend on. A member that asks while another one computes the
        prefix, and pauses, waits for it. What `compute` raises is raised in its member alone.
        """
        while name in self._computing:
            self.pause()
        found = self._prefixes.get(name)
        if found is not None:
            self._prefixes.move_to_end(name)
            return SharedPrefix(hf.fork(found.cache), found.chunks), True
        self._computing.add(name)
        try:
            own = compute()
        finally:
            self._computing.discard(name)
        self._prefixes[name] = SharedPrefix(hf.fork(own.cache), own.chunks)
        while len(self._prefixes) > _PREFIXES_MAX:
            self._prefixes.popitem(last=False)
        return own, False
