"""Models as runs recorded them, loaded one at a time."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokentape.recorder.events import RunStarted

if TYPE_CHECKING:
    from tokentape.generation import LoadedModel, ModelError


class RecordedModels:
    """Loads the models of runs; keeps the last one in memory."""

    def __init__(self, name: str | None, loading: Mapping[str, Any] | None = None) -> None:
        """`name` is that of the user, None for the recorded ones; `loading` overrides settings."""
        self._name = name
        self._loading = dict(loading or {})
        self._lm: LoadedModel | None = None
        self._loaded = ""
        self._failures: dict[str, ModelError] = {}
        """Of models that could not be loaded, by their keys."""

    def key(self, started: RunStarted) -> str:
        """Return a text that is the same for runs that are replayed with the same model."""
        name = self._name or started.model
        return json.dumps([name, started.dtype, started.loading], sort_keys=True)

    def load(self, started: RunStarted) -> "LoadedModel":
        """Return the model to replay a run with. Raise ModelError if it cannot be loaded.

        A model that could not be loaded is not tried again.
        """
        from tokentape.generation import ModelError
        from tokentape.generation.models.recorded_model import load_as_recorded

        key = self.key(started)
        if key in self._failures:
            raise ModelError(*self._failures[key].args)
        if self._lm is None or self._loaded != key:
            self._lm = None  # frees its memory before the next model is loaded
            try:
                self._lm = load_as_recorded(self._name, started, **self._loading)
                self._loaded = key
            except ModelError as error:
                self._failures[key] = error
                raise
        return self._lm
