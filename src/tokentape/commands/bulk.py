"""`verify` of many runs: which ones, their outcomes as they are printed, and the exit code."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.options import locate_run, open_stored
from tokentape.commands.report_files import ReportFiles
from tokentape.commands.stored_results import store_verdict
from tokentape.commands.tool_files import RECORDED
from tokentape.recorder.paths import expand_path
from tokentape.recorder.short_forms import counted
from tokentape.replay.results.fingerprint_names import check_ignored
from tokentape.screen import out, stdout_on_stderr
from tokentape.store.objects.urls import ObjectUrl, object_url

if TYPE_CHECKING:
    from tokentape.commands.options import Store
    from tokentape.generation.models.loading_settings import LoadingKeywords
    from tokentape.replay.bulk.sources import BulkOutcome, BulkSettings, RunSource

JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        metavar="N",
        help="Verify all runs of what is named with N processes, which share the memory of the "
        "weights.",
    ),
]


class BulkEngine(StrEnum):
    """What verifies many runs."""

    PROCESSES = "processes"
    RAY = "ray"


EngineOption = Annotated[
    BulkEngine | None,
    typer.Option(
        "--engine",
        help="Verify all runs of what is named with processes of this machine, or with actors of a "
        "Ray cluster, as many as --jobs says or as the cluster has places for.",
    ),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        help="The Ray cluster of --engine ray, as HOST:PORT or auto; by default one is started on "
        "this machine.",
    ),
]

_WORST_FIRST = (2, 3, 1, 5)
"""Exit codes: bad input, a newer version, a divergence, nothing to replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOptions:
    """Which runs to verify, and how: the options of the command."""

    runs: Sequence[str]
    """As they were given; empty for all runs of the store."""
    store: str
    model: str | None
    loading: "LoadingKeywords"
    floor: Path | None
    ignore: Sequence[str]
    interventions: bool
    allow_drift: bool
    jobs: int | None
    engine: BulkEngine | None = None
    ray_address: str | None = None

    def settings(self) -> "BulkSettings":
        """Return the settings for every process. Raise ReplayError for mistakes in them."""
        from tokentape.replay.bulk.sources import BulkSettings

        return BulkSettings(
            model=self.model,
            loading=dict(self.loading),
            floor=None if self.floor is None else tt.read_floor(self.floor),
            ignore=tuple(check_ignored(self.ignore)),
            interventions=self.interventions,
        )


def is_bulk(runs: Sequence[str] | None, jobs: int | None, engine: BulkEngine | None) -> bool:
    """Return whether the arguments name more than one run, or ask for several processes."""
    given = runs or ()
    if jobs is not None or engine is not None:
        return True
    return len(given) > 1 or any(_tapes_in(each) for each in given)


def check_one_run_options(turns: Sequence[int] | None, tools: str) -> None:
    """Raise BadParameter for an option that means something for one run only."""
    if turns:
        raise typer.BadParameter("--turn needs a single RUN, without --jobs and --engine")
    if tools != RECORDED:
        raise typer.BadParameter("--tools needs a single RUN, without --jobs and --engine")


def check_ray_address(engine: BulkEngine | None, ray_address: str | None) -> None:
    """Raise BadParameter for the address of a cluster that is not asked for."""
    if ray_address is not None and engine is not BulkEngine.RAY:
        raise typer.BadParameter("--ray-address needs --engine ray")


def verify_runs(options: BulkOptions, files: ReportFiles, *, keep: bool, as_json: bool) -> int:
    """Verify the runs, print and publish the outcomes, and return the exit code."""
    settings = options.settings()
    found = list(_sources(options))
    sources = [each for each in found if not isinstance(each, _Missing)]
    outcomes: dict[RunSource, list[BulkOutcome]] = {}
    with ExitStack() as stack, output.progress("verify") as bar, stdout_on_stderr():
        task = bar.add_task("", total=len(sources))
        stores: dict[str, Store] = {}
        for index, of_source in _verified(sources, settings, options):
            outcomes[sources[index]] = of_source
            bar.advance(task)
            for each in of_source if keep else ():
                if each.report is not None and each.is_live:
                    if each.store not in stores:
                        stores[each.store] = stack.enter_context(closing(open_stored(each.store)))
                    store_verdict(each.report, stores[each.store])
    ordered = [
        outcome
        for each in found
        for outcome in ([each.outcome()] if isinstance(each, _Missing) else outcomes[each])
    ]
    _publish(ordered, files, options, as_json=as_json)
    codes = {_exit_code(each, options.allow_drift) for each in ordered}
    return next((code for code in _WORST_FIRST if code in codes), 0)


def _verified(
    sources: "Sequence[RunSource]", settings: "BulkSettings", options: BulkOptions
) -> "Iterator[tuple[int, list[BulkOutcome]]]":
    """Yield the index and the outcomes of each source."""
    if not sources:
        return
    if options.engine is BulkEngine.RAY:
        from tokentape.replay.bulk.ray_pool import verify_on_ray

        yield from verify_on_ray(sources, settings, jobs=options.jobs, address=options.ray_address)
        return
    jobs = options.jobs or 1
    if jobs > 1 and len(sources) > 1:
        from tokentape.replay.bulk.pool import verify_in_processes

        yield from verify_in_processes(sources, settings, jobs)
        return
    from tokentape.replay.bulk.pool import batches
    from tokentape.replay.bulk.verifier import BulkVerifier

    verifier = BulkVerifier(settings)
    for batch in batches(len(sources), 1):
        found = verifier.verify([sources[index] for index in batch])
        yield from zip(batch, found, strict=True)


@dataclass(frozen=True, slots=True)
class _Missing:
    """An argument that names neither a run nor a file."""

    argument: str
    error: tt.TokentapeError

    def outcome(self) -> "BulkOutcome":
        from tokentape.replay.bulk.sources import RunSource, failed

        return failed(RunSource(store=self.argument), self.error)


def _sources(options: BulkOptions) -> "Iterator[RunSource | _Missing]":
    """Yield what the arguments name, each once: a run, or all runs of a store or tape."""
    from tokentape.replay.bulk.sources import RunSource

    seen: set[RunSource] = set()
    for argument in options.runs or [options.store]:
        try:
            tapes = _tapes_in(argument)
            if tapes:
                found = [RunSource(store=str(tape)) for tape in tapes]
            else:
                run, store = None, options.store
                if options.runs:
                    run, store = locate_run(argument, options.store)
                found = [RunSource(store=store, run_id=run)] if run else _runs_of(store)
        except tt.TokentapeError as error:
            yield _Missing(argument, error)
            continue
        for each in found:
            if each not in seen:
                seen.add(each)
                yield each


def _runs_of(store: str) -> "list[RunSource]":
    """Return the runs of a store, so that processes can share them; a tape or an empty store whole.

    Raise StoreError if the store cannot be read.
    """
    from tokentape.replay.bulk.sources import RunSource

    if store.endswith(".tape"):
        return [RunSource(store=store)]
    with open_stored(store) as opened:
        run_ids = [summary.run_id for summary in opened.summaries()]
    return [RunSource(store=store, run_id=each) for each in run_ids] or [RunSource(store=store)]


def _tapes_in(argument: str) -> Sequence[Path | str]:
    """Return the tapes at any depth of a folder that is no store itself; else nothing."""
    url = object_url(argument)
    if url is not None:
        return [] if "#" in argument or argument.endswith(".tape") else _tapes_at(url)
    try:
        folder = expand_path(argument)
        if not folder.is_dir() or any(folder.glob("*/schema=*")):
            return []
        tapes = (path for path in folder.rglob("*.tape") if path.is_file())
        return sorted(
            path
            for path in tapes
            if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    except (OSError, ValueError):
        return []


def _tapes_at(url: ObjectUrl) -> list[str]:
    """Return the URLs of the tapes in a folder of an object store that is no store itself."""
    from tokentape.store.objects.object_path import ObjectPath

    try:
        folder = ObjectPath.connect(url)
        if "runs" in folder.entries():
            return []
        return [url.joined(each).text for each in sorted(folder.sizes_below()) if _is_tape(each)]
    except tt.StoreError:
        # The store says why when it is opened.
        return []


def _is_tape(name: str) -> bool:
    """Return whether a name is that of a tape in no hidden folder."""
    return name.endswith(".tape") and not any(part.startswith(".") for part in name.split("/"))


def _exit_code(outcome: "BulkOutcome", allow_drift: bool) -> int:
    if outcome.report is None:
        return outcome.error_exit_code
    return 0 if outcome.report.verdict.is_accepted(allow_drift=allow_drift) else 1


def _publish(
    outcomes: "Sequence[BulkOutcome]", files: ReportFiles, options: BulkOptions, *, as_json: bool
) -> None:
    """Write the report files, and print the outcomes even where a file cannot be written."""
    reports = [each.report for each in outcomes if each.report is not None]
    errors = [(_where(each), each.error) for each in outcomes if each.report is None]
    try:
        files.write(reports, errors=errors, allow_drift=options.allow_drift)
    finally:
        if as_json:
            output.print_json([_as_json(each) for each in outcomes])
        else:
            _print(outcomes, options.allow_drift)


def _as_json(outcome: "BulkOutcome") -> dict[str, Any]:
    """Return the report as `verify` of one run prints it, with its store and an error, if any."""
    if outcome.report is not None:
        return {"store": _shown_store(outcome), "error": None, **outcome.report.to_dict()}
    return {
        "store": _shown_store(outcome),
        "error": outcome.error,
        "run_id": outcome.run_id,
        "name": outcome.name,
        "verdict": None,
        "passes": False,
    }


def _print(outcomes: "Sequence[BulkOutcome]", allow_drift: bool) -> None:
    """Print a line for each run, the reports of those that do not pass, and a summary."""
    from tokentape.replay.reports.terminal import render_lines

    out.toned(_line(each, allow_drift) for each in outcomes)
    for each in outcomes:
        if each.report is not None and _exit_code(each, allow_drift):
            out.line()
            out.toned(render_lines(each.report))
    verdicts = Counter(
        "failed" if each.report is None else str(each.report.verdict) for each in outcomes
    )
    numbers = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    out.line()
    out.line(f"{counted(len(outcomes), 'run')}: {numbers}")


def _where(outcome: "BulkOutcome") -> str:
    """Return the run as an argument of the command names it: `STORE#RUN`."""
    store = _shown_store(outcome)
    return f"{store}#{outcome.run_id}" if outcome.run_id else store


def _shown_store(outcome: "BulkOutcome") -> str:
    """Return the store as it was named, without the password of a server."""
    from tokentape.store.location import parse_location, shown

    try:
        place = parse_location(outcome.store)
    except tt.StoreError:
        return outcome.store
    if isinstance(place, ObjectUrl):
        return str(place)
    return outcome.store if isinstance(place, Path) else shown(place)


def _line(outcome: "BulkOutcome", allow_drift: bool) -> tuple[str, str]:
    report = outcome.report
    if report is None:
        return f"{'failed':<12} {_where(outcome)}: {outcome.error}", "bad"
    tokens = counted(sum(turn.tokens for turn in report.turns), "token")
    size = f"{counted(len(report.turns), 'turn')}, {tokens}"
    tone = "bad" if _exit_code(outcome, allow_drift) else "good"
    return f"{report.verdict:<12} {_where(outcome)} {outcome.name!r} ({size})", tone
