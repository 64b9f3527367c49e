"""The models of this process: each is loaded once, and one batch forwards it for all providers."""

import json
import threading
from collections.abc import Callable

import tokentape as tt
from tokentape.generation.models.loading_settings import LoadingKeywords
from tokentape.inspect_provider.token_logprobs import TokenLogprobWriter


class SharedModel:
    """A loaded model, and the batch that generates its replies while there are any."""

    def __init__(self, lm: tt.LoadedModel) -> None:
        self.lm = lm
        self.logprobs = TokenLogprobWriter(lm.tokenizer)
        self._batch: tt.Batch | None = None
        self._lock = threading.Lock()

    def start(self, function: Callable[[], None], *, batch_size: int) -> None:
        """Run a function in the batch; the first one opens it, and so decides its size.

        Call it from a thread other than the main one, whose signal handlers a batch would replace.
        """
        with self._lock:
            if self._batch is None:
                opened = tt.Batch(self.lm, size=batch_size)
                opened.__enter__()
                self._batch = opened
            self._batch.start(function)

    def close_batch(self) -> None:
        """Wait for the functions of the batch, and close it; the next function opens another."""
        with self._lock:
            opened, self._batch = self._batch, None
            if opened is not None:
                opened.__exit__(None, None, None)


class SharedModels:
    """The models that are in use, by name and loading arguments."""

    def __init__(self) -> None:
        self._models: dict[str, SharedModel] = {}
        self._users: dict[str, int] = {}
        self._lock = threading.Lock()

    def acquire(self, name: str, loading: LoadingKeywords) -> tuple[str, SharedModel]:
        """Return a model and its key for `release`; load it if nobody uses it yet."""
        key = json.dumps([name, dict(loading)], sort_keys=True, default=repr)
        with self._lock:
            if key not in self._models:
                self._models[key] = SharedModel(tt.load_model(name, **loading))
            self._users[key] = self._users.get(key, 0) + 1
            return key, self._models[key]

    def release(self, key: str) -> None:
        """Forget a model once its last user has released it."""
        with self._lock:
            self._users[key] -= 1
            if self._users[key]:
                return
            model = self._models.pop(key)
        model.close_batch()


MODELS = SharedModels()
