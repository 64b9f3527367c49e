"""Resume several runs of one store in a command."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

import tokentape as tt
from tokentape.commands.imported_runs import check_has_tokens
from tokentape.commands.investigations import recording_store, resume_hint
from tokentape.commands.many_runs import chosen_places, report_results
from tokentape.commands.options import find_recording, load_recorded_model, locate_run
from tokentape.commands.tool_files import (
    check_has_tools,
    options_to_resume,
    read_tools_file,
    recorded_tools,
    run_tools_file,
)
from tokentape.runs_bar import runs_bar
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords
    from tokentape.generation.plans.batch_size import RunsAtOnce
    from tokentape.recorder.events import RunStarted


def locate_runs(runs: list[str], store: str = DEFAULT_URL) -> tuple[list[str | None], str]:
    """Return the runs that arguments name, and their store. Raise BadParameter for several."""
    found = [locate_run(each, store) for each in runs]
    stores = {place for _, place in found}
    if len(stores) > 1:
        raise typer.BadParameter(f"the runs are in {len(stores)} stores: resume those of one")
    return [run for run, _ in found], stores.pop()


def resume_several(
    runs: list[str | None],
    store: str,
    model: str | None,
    loading: "LoadingKeywords",
    *,
    places: "RunsAtOnce",
    tools_path: Path | None,
    as_json: bool,
) -> None:
    """Resume runs, show how far they are, and report how they ended."""
    file = read_tools_file(tools_path)
    needed = [*options_to_resume(loading, file, model), "--batch", str(places)]
    with recording_store(store, must_exist=True) as opened, resume_hint(store, needed) as begun:
        recordings = [find_recording(opened, each, only=True) for each in runs]
        for recording in recordings:
            check_has_tokens(recording)
        started = {each.run_id: each.started() for each in recordings}
        if len(started) < len(recordings):
            raise tt.PromptError("a run is named twice: a run has one writer")
        if model is None:
            _check_one_model(started)
        for run_id, each in started.items():
            check_has_tools(run_id, each, file)
        run_tools_file(file)
        lm = load_recorded_model(next(iter(started.values())), model, loading)
        from tokentape.generation.plans.many_runs import resume_many, resumed_runs

        planned = resumed_runs(recordings)
        for run_id in started:
            begun(run_id)
        plans = [each.plan for each in planned if each.plan is not None]
        size = chosen_places(places, plans, lm, runs=len(planned))
        with runs_bar(planned, begun, resumed=True) as bar:
            results = resume_many(
                started,
                lm,
                opened,
                batch=size,
                tools=lambda each: recorded_tools(each, lm, file),
                progress=bar.update,
                callback=bar.token,
            )
    report_results(results, store, as_json)


def _check_one_model(started: "dict[str, RunStarted]") -> None:
    """Raise PromptError, before a model is loaded, for runs of several models."""
    models = {(each.model, each.weights_sha256, str(each.loading)) for each in started.values()}
    if len(models) > 1:
        names = ", ".join(sorted({name for name, _, _ in models}))
        raise tt.PromptError(f"the runs have {len(models)} models ({names}): resume those of one")
