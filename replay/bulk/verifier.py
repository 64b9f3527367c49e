"""Verification of many runs in this process."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from tokentape.generation import ModelError
from tokentape.recorder.projections import RunSummary
from tokentape.replay.bulk.sources import BulkOutcome, BulkSettings, RunSource, failed
from tokentape.replay.checking.noise_floor import stored_floor
from tokentape.replay.checking.turn_choice import choose_turns
from tokentape.replay.options import CheckOptions
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run
from tokentape.replay.results.errors import NothingToReplayError
from tokentape.replay.tapes.recorded_models import RecordedModels
from tokentape.replay.verify_many import RunVerification, VerifyRequest, verify_requests
from tokentape.store import DatabaseStore, ParquetStore, open_store

OpenedStore = DatabaseStore | ParquetStore


@dataclass(slots=True, eq=False, kw_only=True)
class _Found:
    """A run of a source, read, or the outcome that says why it was not."""

    source: RunSource
    name: str = ""
    store: OpenedStore | None = None
    run: LoadedRun | None = None
    outcome: BulkOutcome | None = None

    def fail(self, error: Exception, run_id: str = "") -> None:
        self.outcome = failed(self.source, error, run_id=run_id, name=self.name)


class _OpenedStores(ExitStack):
    """The stores of a call, each opened once, with the summaries of its runs."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[str, tuple[OpenedStore, list[RunSummary]]] = {}

    def open(self, store: str) -> tuple[OpenedStore, list[RunSummary]]:
        """Return a store and its runs. Raise StoreError if it cannot be read."""
        if store not in self._opened:
            opened = self.enter_context(closing(open_store(store, must_exist=True)))
            self._opened[store] = opened, opened.summaries()
        return self._opened[store]


class BulkVerifier:
    """Verifies many runs; keeps the last model in memory from one call to the next."""

    def __init__(self, settings: BulkSettings) -> None:
        self._settings = settings
        self._models = RecordedModels(settings.model, settings.loading)

    def verify(self, sources: Sequence[RunSource]) -> list[list[BulkOutcome]]:
        """Return the outcomes of the runs of each source, the oldest run first.

        An error of one run, or of a store that cannot be read, is its outcome.
        """
        with _OpenedStores() as opened:
            found = [list(self._read(source, opened)) for source in sources]
            everything = [each for group in found for each in group]
            by_model: dict[str, list[_Found]] = {}
            for each in everything:
                if each.run is not None:
                    by_model.setdefault(self._models.key(each.run.started), []).append(each)
            for runs in by_model.values():
                self._verify_runs(runs)
        return [[each.outcome for each in group if each.outcome] for group in found]

    def _read(self, source: RunSource, opened: _OpenedStores) -> Iterator[_Found]:
        """Yield the runs of a source, or one failed outcome if it has none to read."""
        found = _Found(source=source)
        try:
            store, summaries = opened.open(source.store)
            if source.run_id is not None:
                run_id = store.recording(source.run_id).run_id
                summaries = [each for each in summaries if each.run_id == run_id]
            if not summaries:
                raise NothingToReplayError(f"{source.store} holds no run")
        except Exception as error:
            found.fail(error)
            yield found
            return
        for summary in summaries:
            found = _Found(source=source, name=summary.name, store=store)
            try:
                run = load_run(store.recording(summary.run_id))
                choose_turns(run, None)
                found.run = run
            except Exception as error:
                found.fail(error, summary.run_id)
            yield found

    def _verify_runs(self, runs: Sequence[_Found]) -> None:
        """Verify runs with one model."""
        requests: list[VerifyRequest] = []
        places: list[_Found] = []
        for each in runs:
            assert each.run is not None
            assert each.store is not None
            try:
                lm = self._models.load(each.run.started)
                floor = self._settings.floor or stored_floor(each.store, each.run, lm)
            except ModelError as error:
                hint = "" if self._settings.model else "; name it with --model if it is elsewhere"
                each.fail(ModelError(f"{error}{hint}"), each.run.run_id)
            except Exception as error:
                each.fail(error, each.run.run_id)
            else:
                options = CheckOptions(
                    floor=floor,
                    ignore=self._settings.ignore,
                    interventions=self._settings.interventions,
                )
                requests.append(VerifyRequest(recording=each.run, options=options))
                places.append(each)
        if requests:
            for index, verified in verify_requests(requests, lm):
                places[index].outcome = _outcome(places[index], verified)


def _outcome(found: _Found, verified: RunVerification) -> BulkOutcome:
    if verified.error is not None:
        return failed(found.source, verified.error, run_id=verified.run_id, name=found.name)
    return BulkOutcome(
        store=found.source.store,
        run_id=verified.run_id,
        name=found.name,
        report=verified.report,
        is_live=isinstance(found.store, DatabaseStore),
    )
