"""Verification of several tapes at once, with the outcomes that each has alone."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

from tokentape.recorder import TokentapeError
from tokentape.replay.options import CheckOptions
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run
from tokentape.replay.tapes.outcomes import RunOutcome, failed_outcome
from tokentape.replay.tapes.tape_replayer import (
    OpenedStore,
    ReplayableTurns,
    ReplayRequest,
    TapeOutcome,
    TapeReplayer,
    check_unaltered,
    choose_replayable,
    one_line,
)
from tokentape.replay.verify_many import VerifyRequest, verify_requests
from tokentape.store import open_store


@dataclass(slots=True, eq=False, kw_only=True)
class _TapeRun:
    """A run of a tape that is being verified."""

    tape: int
    """Index of its request."""
    request: ReplayRequest
    store: OpenedStore
    run: LoadedRun
    chosen: ReplayableTurns


class TapeBatch:
    """Verifies tapes together. An error is the outcome of its tape alone."""

    def __init__(self, replayer: TapeReplayer) -> None:
        """The models are those of `replayer`, which keeps the last one in memory."""
        self._replayer = replayer
        self._found: list[dict[int, RunOutcome]] = []
        self._errors: dict[int, Exception] = {}

    def verify(self, requests: Sequence[ReplayRequest]) -> list[TapeOutcome | Exception]:
        """Return for each request what `TapeReplayer.replay` returns, or the error it raises.

        The requests verify, and update nothing.
        """
        self._found, self._errors = [{} for _ in requests], {}
        with ExitStack() as stack:
            runs = [
                run
                for index, request in enumerate(requests)
                for run in self._read(index, request, stack)
            ]
            self._verify_runs(runs)
        return [
            self._errors.get(index) or TapeOutcome(runs=dict(sorted(found.items())))
            for index, found in enumerate(self._found)
        ]

    def _read(self, tape: int, request: ReplayRequest, stack: ExitStack) -> list[_TapeRun]:
        """Return the runs of a tape that can be replayed."""
        runs = []
        try:
            store = stack.enter_context(closing(open_store(request.tape, must_exist=True)))
            for index, summary in enumerate(store.summaries()):
                if request.run not in (None, index):
                    continue
                of_run = replace(request, run=index)
                try:
                    run = load_run(store.recording(summary.run_id))
                    chosen = choose_replayable(run, of_run)
                except TokentapeError as error:
                    self._found[tape][index] = failed_outcome(one_line(str(error)))
                    continue
                runs.append(
                    _TapeRun(tape=tape, request=of_run, store=store, run=run, chosen=chosen)
                )
        except Exception as error:
            self._errors[tape] = error
            return []
        return runs

    def _verify_runs(self, runs: Sequence[_TapeRun]) -> None:
        """Verify runs one model after the other."""
        by_model: dict[str, list[_TapeRun]] = {}
        for each in runs:
            by_model.setdefault(self._replayer.model_key(each.run, each.request), []).append(each)
        for of_model in by_model.values():
            due: list[_TapeRun] = []
            requests: list[VerifyRequest] = []
            for run in of_model:
                with self._ending_alone(run):
                    lm = self._replayer.model_of(run.run, run.request)
                    if not run.chosen.replayable:
                        self._finish(run, run.chosen.outcome(None, run.request))
                        continue
                    options = run.chosen.options(run.run, lm, run.request, run.store)
                    chosen = CheckOptions(**options)
                    requests.append(VerifyRequest(recording=run.run, options=chosen))
                    due.append(run)
            for index, verified in verify_requests(requests, lm) if requests else ():
                with self._ending_alone(due[index]):
                    if verified.error is not None:
                        raise verified.error
                    outcome = due[index].chosen.outcome(verified.report, due[index].request)
                    self._finish(due[index], outcome)

    @contextmanager
    def _ending_alone(self, run: _TapeRun) -> Iterator[None]:
        """Keep an error of this context: an expected one is the run's outcome, another the tape's.

        The other runs go on.
        """
        try:
            yield
        except TokentapeError as error:
            self._found[run.tape][run.request.run or 0] = failed_outcome(one_line(str(error)))
        except Exception as error:
            self._errors.setdefault(run.tape, error)

    def _finish(self, run: _TapeRun, outcome: RunOutcome) -> None:
        if outcome.passes:
            # Checked last: a failing replay gives more detail, but does not see everything.
            check_unaltered(run.store, run.run.run_id)
        self._found[run.tape][run.request.run or 0] = outcome
