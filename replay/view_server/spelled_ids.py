"""The texts of ids that a running run has sampled and has not recorded the texts of."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from tokentape.recorder.events import RunStarted

Speller = Callable[[Iterable[int]], Mapping[str, str]]
"""Returns the text of each id by its decimal digits, as `TokensSpelled` has them."""

_IDS_MAX = 2000
"""Ids that an answer spells: a client does not wait for more, and gets them with the next."""


class SpelledIds:
    """The texts of the ids of runs, from tokenizers that threads load when a run needs them.

    Its methods are called in several threads, and do not wait for a tokenizer.
    """

    def __init__(self, load: Callable[[RunStarted], Speller | None]) -> None:
        """`load` returns what spells the ids of a run; None if its tokenizer is not available.

        It is called once for each tokenizer, in one thread at a time. If it raises an error, the
        tokenizer is not available.
        """
        self._load = load
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._tokenizers: dict[tuple[str, str, str], _Tokenizer] = {}
        self._changes = 0

    @property
    def changes(self) -> int:
        """A number that is another one when more ids may have a text than before."""
        return self._changes

    @property
    def is_loading(self) -> bool:
        """Whether a tokenizer is being loaded: the process must not wait for it."""
        return self._loading.locked()

    def texts(self, started: RunStarted, ids: Sequence[int]) -> dict[int, str]:
        """Return the texts of the ids of a run that are known now.

        The first call for a tokenizer begins to load it, and returns none.
        """
        with self._lock:
            key = (started.model, started.tokenizer_sha256, repr(started.loading))
            if (found := self._tokenizers.get(key)) is None:
                found = self._tokenizers[key] = _Tokenizer()
                # A daemon, so that a library that is being imported does not keep the process.
                thread = threading.Thread(
                    target=self._load_into, args=(found, started), name="tokenizer", daemon=True
                )
                thread.start()
            if found.speller is None:
                return {}
            missing = (each for each in ids if each not in found.texts)
            chosen = list(islice(missing, _IDS_MAX))
            if chosen:
                spelled = found.speller(chosen)
                found.texts.update((each, spelled[str(each)]) for each in chosen)
            if len(chosen) == _IDS_MAX:
                self._changes += 1
            return {each: found.texts[each] for each in ids if each in found.texts}

    def _load_into(self, tokenizer: "_Tokenizer", started: RunStarted) -> None:
        with self._loading:
            try:
                speller = self._load(started)
            except Exception:
                # Tokenizers from model repositories raise anything. Without one the ids stay.
                return
            if speller is None:
                return
            with self._lock:
                tokenizer.speller = speller
                self._changes += 1


class _Tokenizer:
    """What spells the ids of a tokenizer, once it is loaded, and the texts that it gave."""

    def __init__(self) -> None:
        self.speller: Speller | None = None
        self.texts: dict[int, str] = {}
