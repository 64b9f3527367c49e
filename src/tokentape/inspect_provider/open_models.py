"""What the models of this process record into, until they are closed."""

import atexit
import threading
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.engine import URL

import tokentape as tt
from tokentape.generation.run_settings import InvestigationKeywords
from tokentape.inspect_provider.evaluated_sample import EvaluatedSample
from tokentape.inspect_provider.model_arguments import ModelArguments
from tokentape.inspect_provider.sample_runs import SampleRuns
from tokentape.inspect_provider.shared_model import MODELS
from tokentape.store import DatabaseStore
from tokentape.store.location import is_in_memory, parse_location, shown, sqlite_url


class OpenModel:
    """A loaded model, its store, and the runs of the samples that are evaluated with it."""

    def __init__(self, name: str, arguments: ModelArguments) -> None:
        """Open the store and load the model, if no other one of this process has.

        Raise TokentapeError for a store that cannot be written to, and for a model that cannot be
        loaded.
        """
        self.store = _open_store(arguments.store)
        self.store_url = _url_anywhere(arguments.store)
        """The URL of the store for processes in any folder, without its password."""
        try:
            self._key, self.model = MODELS.acquire(name, arguments.loading)
        except BaseException:
            self.store.close()
            raise
        self._runs: dict[str | None, SampleRuns] = {}
        self._lock = threading.Lock()
        OPEN_MODELS.append(self)

    def runs_of(
        self, sample: EvaluatedSample | None, settings: InvestigationKeywords
    ) -> SampleRuns:
        """Return the runs of a sample; the first call for it decides their settings."""
        session = None if sample is None else sample.session
        with self._lock:
            if session not in self._runs:
                self._runs[session] = SampleRuns(self.model, self.store, sample, settings)
            return self._runs[session]

    def end_runs(self, belongs: Callable[[EvaluatedSample | None], bool]) -> None:
        """End the runs of some samples."""
        with self._lock:
            ended = [key for key, runs in self._runs.items() if belongs(runs.sample)]
            runs_of_ended = [self._runs.pop(key) for key in ended]
        for runs in runs_of_ended:
            runs.close()

    def end_all(self) -> None:
        """End all runs and the batch; another request begins others."""
        self.end_runs(lambda sample: True)
        self.model.close_batch()

    def close(self) -> None:
        """End all runs, close the store, and forget the model if nobody else uses it."""
        if self not in OPEN_MODELS:
            return
        OPEN_MODELS.remove(self)
        self.end_runs(lambda sample: True)
        self.store.close()
        MODELS.release(self._key)


OPEN_MODELS: list[OpenModel] = []


def _open_store(where: str) -> DatabaseStore:
    store = tt.open_store(where)
    if not isinstance(store, DatabaseStore):
        raise tt.StoreError(
            f"{where} is sealed: record into a database, -M store=sqlite:///runs.db"
        )
    return store


def _url_anywhere(where: str) -> str:
    place = parse_location(where)
    if isinstance(place, URL):
        if place.get_backend_name() != "sqlite" or is_in_memory(place):
            return shown(place)
        place = Path(str(place.database))
    return shown(sqlite_url(place.absolute())) if isinstance(place, Path) else str(place)


@atexit.register
def _close_all() -> None:
    for each in list(OPEN_MODELS):
        each.close()
