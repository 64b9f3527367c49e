"""Commands that go on with a recorded run: where it stopped, or another way from a turn of it."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.investigations import INTERRUPTED, print_run, recording_store
from tokentape.commands.options import (
    JsonOption,
    RunArgument,
    StoreOption,
    find_recording,
    load_as_recorded,
)
from tokentape.recorder.events import RunStarted, ToolCalled
from tokentape.store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.generation.plans import ExperimentPlan

ModelOption = Annotated[
    str | None, typer.Option(help="Where the model is now; by default, where it was recorded from.")
]


def resume(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was cut off: its turn first, then what its protocol has left."""
    with recording_store(store, must_exist=True) as opened:
        recording = find_recording(opened, run)
        started = recording.started()
        with _told_how_to_go_on(recording.run_id, store):
            lm = _model(started, model)
            tools = _tools(started, lm)
            investigation = tt.Investigation.resume(opened, recording.run_id, lm, tools=tools)
            _go_on(investigation, _protocol(started))
        reply = investigation.resumed_reply
        if reply is not None:
            sys.stderr.write(f"turn {reply.turn} was under way: it is finished\n")
        print_run(recording, recording.turns(), store, as_json)


def fork(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id or its beginning.")],
    at_turn: Annotated[int, typer.Option(help="The turn that is taken another way.", min=1)],
    store: StoreOption = DEFAULT_URL,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the turn; may be repeated."),
    ] = None,
    message: Annotated[str | None, typer.Option(help="Say this instead of what was said.")] = None,
    model: ModelOption = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Begin a run where another one stood, and take one turn; nothing of the past is copied."""
    changed = _parsed(changes or [])
    _refuse_no_message(message)
    with recording_store(store, must_exist=True) as opened:
        parent = opened.recording(run)
        taken = [each for each in parent.turns() if each.number == at_turn]
        if not taken and message is None:
            raise tt.PromptError(
                f"run {parent.run_id} has no turn {at_turn} to take another way: say something "
                "with --message"
            )
        started = parent.started()
        lm = _model(started, model)
        from tokentape.generation.investigation.resume_point import (
            check_changes,
            check_has_settings,
        )

        check_has_settings(changed)
        if taken:
            check_changes(lm, taken[0], changed)
        investigation = tt.Investigation.fork(
            opened,
            parent.run_id,
            lm,
            at_turn=at_turn,
            tools=_tools(started, lm),
            changes=changed | ({} if message is None else {"message": message}),
            **({} if name is None else {"name": name}),
        )
        with _told_how_to_go_on(investigation.run_id, store), investigation:
            if taken:
                calls = _calls_of(parent, at_turn)
                investigation.retake(taken[0], message=message, tool_calls=calls, changes=changed)
            else:
                investigation.chat(message or "", **changed)
        child = opened.recording(investigation.run_id)
        own = [each for each in child.turns() if each.number >= at_turn]
        if "protocol" in started.behaviour:
            sys.stderr.write(
                f"the rest of its protocol: tokentape resume {child.run_id} --store {store}\n"
            )
        print_run(child, own, store, as_json)


@contextmanager
def _told_how_to_go_on(run_id: str, store: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(
            f"tokentape: interrupted; go on with: tokentape resume {run_id} --store {store}\n"
        )
        raise typer.Exit(INTERRUPTED) from None


def _model(started: RunStarted, model: str | None) -> "tt.LoadedModel":
    name = model or started.model
    if not name:
        raise tt.ModelError("the recording does not say where its model is: name it with --model")
    with output.working(f"loading {name}"):
        return load_as_recorded(name, started)


def _tools(started: RunStarted, lm: "tt.LoadedModel") -> "tt.ToolInterface | None":
    """Those of tokentape that the run was begun with."""
    names = tuple(started.behaviour.get("tools", ()))
    return tt.default_tools(lm).only(names) if names else None


def _protocol(started: RunStarted) -> "ExperimentPlan | None":
    from tokentape.generation.plans import ExperimentPlan

    described = started.behaviour.get("protocol")
    return None if described is None else ExperimentPlan.from_described(described)


def _go_on(investigation: "tt.Investigation", protocol: "ExperimentPlan | None") -> None:
    if protocol is None:
        with investigation:
            return
    from tokentape.generation.plans import run_plan
    from tokentape.turns_bar import turns_bar

    with investigation, turns_bar(len(protocol.turns()), done=investigation.generator.turn) as bar:
        run_plan(
            investigation,
            protocol,
            progress=lambda turn, reply: bar.turn(reply),
            callback=bar.token,
        )


def _calls_of(recording: tt.Recording, turn: int) -> "list[tt.ToolCall]":
    """What the experimenter had looked up for the model in that turn."""
    return [
        tt.ToolCall(name=each.event.name, arguments=each.event.arguments)
        for each in recording.events()
        if isinstance(each.event, ToolCalled)
        and each.event.caller == "experimenter"
        and each.turn == turn
    ]


def _parsed(changes: list[str]) -> dict[str, Any]:
    """`temperature=0.7` as a number, `do_sample=false` as what it says."""
    parsed = {}
    for each in changes:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise tt.PromptError(f"--set takes NAME=VALUE, as in temperature=0.7: {each!r}")
        try:
            parsed[name.strip()] = json.loads(value)
        except ValueError:
            parsed[name.strip()] = value
    try:
        json.dumps(parsed, allow_nan=False).encode()
    except ValueError:
        raise tt.PromptError("--set takes finite numbers: no event can hold another") from None
    return parsed


def _refuse_no_message(message: str | None) -> None:
    """Raise PromptError for what cannot be said, before anything is recorded."""
    from tokentape.generation.checks import check_text

    if message is not None and not message.strip():
        raise tt.PromptError("--message is empty: there is nothing to reply to")
    check_text("--message", message or "")
