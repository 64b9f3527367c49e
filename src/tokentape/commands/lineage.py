"""The commands `resume` and `fork`: continue a run, or branch off at one of its turns."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.forking import (
    AtTokenOption,
    ContinueOption,
    ForkRequest,
    ReplyPrefixOption,
    TokenIdOption,
    TokenOption,
    chosen_token,
    print_fork,
    send_later_messages,
)
from tokentape.commands.imported_runs import check_has_tokens
from tokentape.commands.investigations import print_run, recording_store, resume_hint
from tokentape.commands.many_runs import BatchOption, RunsArgument, parsed_batch
from tokentape.commands.options import (
    JsonOption,
    OneRunArgument,
    RecordedModelOption,
    StoreOption,
    find_recording,
    load_recorded_model,
    loads_model,
    locate_run,
)
from tokentape.commands.resuming import locate_runs, resume_several
from tokentape.commands.tool_files import (
    ToolsFileOption,
    check_has_tools,
    options_to_resume,
    read_tools_file,
    recorded_tools,
    resume_command,
    run_tools_file,
)
from tokentape.recorder.events import RunStarted
from tokentape.recorder.events.run import FORK_CONTINUES
from tokentape.recorder.process import ProcessState
from tokentape.screen import err, out, stdout_on_stderr
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.generation.investigation.resume_point import ResumePoint
    from tokentape.generation.models.loading_settings import LoadingKeywords
    from tokentape.generation.plans import ExperimentPlan
    from tokentape.generation.run_settings import RunSettings
    from tokentape.store import DatabaseStore

_PYTHON = {"True": True, "False": False, "None": None}
"""Values as Python, and the messages of errors, spell them."""


@loads_model
def resume(
    *,
    runs: RunsArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: RecordedModelOption = None,
    loading: "LoadingKeywords",
    batch: BatchOption = None,
    tools: ToolsFileOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say where it would continue and what differs here."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Resume an interrupted run: finish its turn, then run the rest of its plan; or several runs.

    A line on standard error says first where it continues. Several have one model, and are reported
    in a line each. Exit code 130: interrupted by Ctrl-C; 143 and 129: by SIGTERM and SIGHUP. The
    message says how to resume.
    """
    places = parsed_batch(batch)
    if runs is not None and len(runs) > 1:
        if dry_run:
            raise typer.BadParameter("--dry-run takes one run")
        named, store = locate_runs(runs, store)
        resume_several(
            named, store, model, loading, places=places, tools_path=tools, as_json=as_json
        )
        return
    file = read_tools_file(tools)
    run, store = locate_run(runs[0] if runs else None, store)
    needed = options_to_resume(loading, file, model)
    with recording_store(store, must_exist=True) as opened:
        recording = find_recording(opened, run)
        check_has_tokens(recording)
        started = recording.started()
        if dry_run:
            _print_outlook(opened, recording, as_json)
            return
        with resume_hint(store, needed) as begun:
            begun(recording.run_id)
            check_has_tools(recording.run_id, started, file)
            run_tools_file(file)
            lm = load_recorded_model(started, model, loading)
            given = recorded_tools(started, lm, file)
            investigation = tt.Investigation.resume(opened, recording.run_id, lm, tools=given)
            if investigation.resume_point is not None:
                err.lines(_outlook(opened, investigation.resume_point)[1])
            _run_rest(investigation, _plan(started), recording)
        reply = investigation.resumed_reply
        if reply is not None:
            err.line(f"turn {reply.turn} was interrupted: it is finished now")
        print_run(recording, store, as_json)


def _print_outlook(opened: "DatabaseStore", recording: tt.Recording, as_json: bool) -> None:
    """Print what resuming a run would do. Raise as resuming it would, as far as events say."""
    from tokentape.generation.investigation.resume_point import ResumePoint

    point = ResumePoint.of(recording)
    point.check_can_continue()
    fields, lines = _outlook(opened, point)
    ended = recording.ended()
    fields["status"] = "running" if ended is None else ended.status_text
    if ended is not None and ended.status != "finished":
        lines.append(f"the run has ended: {ended.status_text}")
    if as_json:
        output.print_json(fields)
    else:
        out.lines(lines)


def _outlook(opened: "DatabaseStore", point: "ResumePoint") -> tuple[dict[str, Any], list[str]]:
    """Return what resuming does, as JSON and in lines: the turn, the plan, the other process."""
    from tokentape.generation.investigation.resume_outlook import ResumeOutlook
    from tokentape.store import process_of

    outlook, plan = ResumeOutlook.of(point), _plan(point.started)
    lines, fields = [outlook.describe()], asdict(outlook)
    if plan is not None:
        turns, done = len(plan.turns()), point.last_turn
        fields["plan"] = {"name": plan.name, "turns": turns, "left": max(0, turns - done)}
        if done < turns:
            lines.append(f"then turns {done + 1} to {turns} of the plan {plan.name}")
    summary = opened.summary(outlook.run_id)
    process = None if summary is None else process_of(opened, summary)
    fields["process"] = None if process is None else process.as_json()
    if process is not None and process.state is ProcessState.ALIVE:
        lines.append(f"{process.describe()}: it fails at its next event")
    return fields, lines


def close(
    run: OneRunArgument,
    store: StoreOption = DEFAULT_URL,
    force: Annotated[
        bool, typer.Option("--force", help="Also if its process runs, or is unknown here.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Close a run whose process is gone: record that it failed. It can still be resumed."""
    from tokentape.store import close_run

    named, store = locate_run(run, store)
    with recording_store(store, must_exist=True) as opened:
        recording = find_recording(opened, named, only=True)
        process = close_run(opened, recording, force=force)
    if as_json:
        output.print_json({"run_id": recording.run_id, "process": process.as_json()})
    else:
        out.line(f"closed run {recording.run_id}: {process.describe()}")


@loads_model
def fork(
    *,
    run: OneRunArgument,
    at_turn: Annotated[int, typer.Option(help="The turn to run again in the fork.", min=1)],
    store: StoreOption = DEFAULT_URL,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the turn, such as temperature=1.2; a greedy turn takes that only "
            "with --set do_sample=true.",
        ),
    ] = None,
    message: Annotated[str | None, typer.Option(help="Replace the recorded message.")] = None,
    at_token: AtTokenOption = None,
    token: TokenOption = None,
    token_id: TokenIdOption = None,
    reply_prefix: ReplyPrefixOption = None,
    continues: ContinueOption = False,
    model: RecordedModelOption = None,
    loading: "LoadingKeywords",
    tools: ToolsFileOption = None,
    name: Annotated[str | None, typer.Option(help="The name of the fork.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Fork a run: share its events up to a turn, or a token of one, and run the rest again.

    The fork copies no events. It prints the reply and the diff with the run. Exit code 130:
    interrupted by Ctrl-C; 143 and 129: by SIGTERM and SIGHUP.
    """
    request = ForkRequest(
        at_turn=at_turn,
        at_token=at_token,
        token=chosen_token(token, token_id),
        message=message,
        reply_prefix=reply_prefix,
        settings=_parsed(changes or []),
        continues=continues,
    )
    request.check()
    file = read_tools_file(tools)
    needed = options_to_resume(loading, file, model)
    named, store = locate_run(run, store)
    with recording_store(store, must_exist=True) as opened:
        parent = find_recording(opened, named, only=True)
        check_has_tokens(parent)
        turn = request.turn_of(parent)
        started = parent.started()
        check_has_tools(parent.run_id, started, file)
        run_tools_file(file)
        lm = load_recorded_model(started, model, loading)
        investigation = request.begin(
            opened,
            parent,
            lm,
            turn=turn,
            tools=recorded_tools(started, lm, file),
            name=started.name if name is None else name,
            other_model=bool(model or loading),
        )
        with resume_hint(store, needed) as begun, investigation, stdout_on_stderr():
            begun(investigation.run_id)
            request.run(investigation, parent, turn)
        child = opened.recording(investigation.run_id)
        if _settings(child.started()).plan is not None and not continues:
            rest = resume_command([child.run_id], store, needed)
            err.line(f"run the rest of its plan with: {rest}")
        print_fork(child, parent, at_turn, store, as_json)


def _plan(started: RunStarted) -> "ExperimentPlan | None":
    """Return the plan that the run was started with, or None."""
    from tokentape.generation.plans import ExperimentPlan

    described = _settings(started).plan
    return None if described is None else ExperimentPlan.from_described(described)


def _settings(started: RunStarted) -> "RunSettings":
    from tokentape.generation.run_settings import RunSettings

    return RunSettings.from_record(started.settings)


def _run_rest(
    investigation: "tt.Investigation", plan: "ExperimentPlan | None", recording: tt.Recording
) -> None:
    """Finish the interrupted turn, and run the turns of the plan that are left.

    In a fork that continues, send the later messages of its parent that are left.
    """
    if plan is None:
        forked = recording.forked()
        with investigation, stdout_on_stderr():
            if forked is not None and forked.changes.get(FORK_CONTINUES) is True:
                _continue_fork(investigation, recording.parent(forked), forked.at_turn)
        return
    from tokentape.generation.plans import run_plan
    from tokentape.turns_bar import plan_bar

    done = investigation.generator.turn
    with investigation, plan_bar(plan, done=done) as bar, stdout_on_stderr():
        run_plan(
            investigation,
            plan,
            progress=lambda turn, reply: bar.turn(reply),
            callback=bar.token,
        )


def _continue_fork(investigation: "tt.Investigation", parent: tt.Recording, at_turn: int) -> None:
    """Send the messages that are left, or say that the forked turn itself was not begun."""
    if investigation.generator.turn >= at_turn:
        send_later_messages(investigation, parent, at_turn)
        return
    err.line(
        f"tokentape: turn {at_turn} of the fork had not begun, so no message of run "
        f"{parent.run_id} was sent: fork that run again"
    )


def _parsed(changes: list[str]) -> dict[str, Any]:
    """Return settings by name; a value is JSON or Python (`0.7`, `false`, `False`), or a string."""
    parsed = {}
    for each in changes:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise tt.PromptError(f"--set takes NAME=VALUE, as in temperature=0.7: {each!r}")
        try:
            parsed[name.strip()] = _PYTHON[value] if value in _PYTHON else json.loads(value)
        except ValueError:
            parsed[name.strip()] = value
    try:
        json.dumps(parsed, allow_nan=False).encode()
    except ValueError:
        raise tt.PromptError("--set takes finite numbers: events cannot hold others") from None
    return parsed
