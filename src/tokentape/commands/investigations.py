"""The commands `run` and `chat`: record an experiment plan, or a conversation you type."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.chat_terminal import StandardTerminal
from tokentape.commands.completion import complete_plan
from tokentape.commands.options import (
    JsonOption,
    ModelOption,
    StoreOption,
    load_named_model,
    loads_model,
)
from tokentape.commands.tool_files import (
    ToolsFileOption,
    available_tools,
    options_to_resume,
    read_tools_file,
    resume_command,
    run_tools_file,
    show_command,
)
from tokentape.recorder.errors import Terminated
from tokentape.recorder.turn_overviews import TurnOverview, read_overviews
from tokentape.screen import err, out, stdout_on_stderr
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords
    from tokentape.generation.plans import ExperimentPlan
    from tokentape.store import DatabaseStore

INTERRUPTED = 130
_CHAT_SYSTEM_PROMPT = """\
You are a language model that can look at its own weights. Answer briefly, and say so where you do \
not know.

The tools that can be run for you:
{tools}

{memory}"""

NewTokensOption = Annotated[int | None, typer.Option(min=1, help="The most tokens of a reply.")]
NameOption = Annotated[str | None, typer.Option(help="The name of the run.")]


@loads_model
def run(
    *,
    plan: Annotated[
        str | None,
        typer.Argument(
            metavar="PLAN",
            help="A plan that --list shows, or a YAML file.",
            autocompletion=complete_plan,
        ),
    ] = None,
    model: ModelOption = "smollm2-demo",
    loading: "LoadingKeywords",
    store: StoreOption = DEFAULT_URL,
    seed: Annotated[
        int | None, typer.Option(help="The seed of the run; default: the plan's.")
    ] = None,
    turns: Annotated[int | None, typer.Option(min=1, help="Run only this many turns.")] = None,
    max_new_tokens: NewTokensOption = None,
    name: NameOption = None,
    tools: ToolsFileOption = None,
    list_plans: Annotated[
        bool, typer.Option("--list", help="List the plans that come with tokentape.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run an experiment plan to its end, unattended, and record it.

    Exit code 130: interrupted by Ctrl-C; 143 and 129: by SIGTERM and SIGHUP. The message says how
    to resume.
    """
    if list_plans:
        _list_plans(as_json)
        return
    if plan is None:
        raise typer.BadParameter("name a plan; --list shows the plans that come with tokentape")
    from tokentape.generation.plans import load_plan, plan_tools_path

    chosen = load_plan(plan).with_overrides(
        seed=seed, turns_max=turns, max_new_tokens=max_new_tokens
    )
    file = read_tools_file(tools or plan_tools_path(plan, chosen))
    if file is not None and tools is None:
        err.line(f"running the code of {file.path}, which {plan} names")
    with resume_hint(store, options_to_resume(loading, file)) as begun:
        run_tools_file(file)
        lm = load_named_model(model, loading)
        from tokentape.generation.plans import begin_plan

        available = available_tools(lm, file)
        if file is not None and tools is not None:
            added = [each for each in file.tools(lm).names if each not in chosen.tools]
            names = (*chosen.tools, *added)
            chosen = chosen.with_overrides(tools=names, tools_file=file.name)
        with recording_store(store) as opened:
            investigation = begin_plan(chosen, lm, opened, name=name, tools=available)
            begun(investigation.run_id)
            _run_turns(investigation, chosen)
            recording = opened.recording(investigation.run_id)
            print_run(recording, store, as_json)


@loads_model
def chat(
    *,
    model: ModelOption = "smollm2-demo",
    loading: "LoadingKeywords",
    system: Annotated[
        str, typer.Option(help="The system prompt; {tools} and {memory} in it are replaced.")
    ] = _CHAT_SYSTEM_PROMPT,
    store: StoreOption = DEFAULT_URL,
    name: NameOption = None,
    seed: Annotated[int, typer.Option(help="The seed of the run.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of a reply.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Sampling temperature; 0 picks the likeliest token.")
    ] = 0.7,
    tools: ToolsFileOption = None,
) -> None:
    """Talk with a model and record the conversation; /help lists the other inputs."""
    file = read_tools_file(tools)
    run_tools_file(file)
    lm = load_named_model(model, loading)
    from tokentape.generation.context_length import context_tokens
    from tokentape.generation.engine.prepared_turn import check_turn_settings
    from tokentape.generation.investigation.chat_session import ChatSession, EventTap

    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    settings |= {"do_sample": True, "top_p": 0.9} if temperature else {}
    longest = context_tokens(lm.model)
    check_turn_settings(lm.model, lm.tokenizer, settings, context_tokens=longest)
    given = available_tools(lm, file)
    needed = options_to_resume(loading, file)
    with recording_store(store) as opened, resume_hint(store, needed) as begun:
        terminal = StandardTerminal()
        tap = EventTap(opened, terminal.on_event)
        with tt.Investigation(
            lm,
            store=tap,
            name=name or "chat",
            system_prompt=system,
            tools=given,
            seed=seed,
            at_context_limit="prune_turns",
        ) as investigation:
            begun(investigation.run_id)
            err.line(f"recording run {investigation.run_id} into {opened.where}; /help")
            terminal.show_legend()
            session = ChatSession(investigation, given, tap, terminal, settings)
            session.run()
    err.line(f"recorded; show it with: {show_command(investigation.run_id, store)}")
    if session.fault is not None:
        raise session.fault


@contextmanager
def resume_hint(store: str, options: list[str]) -> Iterator[Callable[[str], None]]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a line that says how to resume, and an exit code.

    The yielded function is called with the id of the run once it is known; `options` are those that
    resuming it needs.
    """
    run_ids: list[str] = []
    try:
        yield run_ids.append
    except (KeyboardInterrupt, Terminated) as error:
        by = f" by {error.signal}" if isinstance(error, Terminated) else ""
        how = ""
        if run_ids:
            how = f"; resume with: {resume_command(run_ids[-1], store, options)}"
        err.line(f"tokentape: interrupted{by}{how}")
        code = error.code if isinstance(error, Terminated) else INTERRUPTED
        raise typer.Exit(int(code or INTERRUPTED)) from None


def _run_turns(investigation: "tt.Investigation", plan: "ExperimentPlan") -> None:
    from tokentape.generation.plans import run_plan
    from tokentape.turns_bar import plan_bar

    with investigation, plan_bar(plan) as bar, stdout_on_stderr():
        run_plan(
            investigation,
            plan,
            progress=lambda turn, reply: bar.turn(reply),
            callback=bar.token,
        )


def recording_store(store: str, *, must_exist: bool = False) -> "DatabaseStore":
    """Open a store to record into. Raise StoreError for a sealed one."""
    from tokentape.store import DatabaseStore

    with output.working("opening the store"):
        opened = tt.open_store(store, must_exist=must_exist)
    if not isinstance(opened, DatabaseStore):
        raise tt.StoreError(f"{store} is sealed: record into a database, --store sqlite:///runs.db")
    return opened


def print_run(recording: tt.Recording, store: str, as_json: bool, *, first_turn: int = 1) -> None:
    """Print the turns, from one on, of a run that was just recorded."""
    if as_json:
        output.print_json(run_json(recording, store, first_turn=first_turn))
        return
    turns = read_overviews(recording, first_turn=first_turn)
    out.line(f"run {recording.run_id}")
    out.show(output.turns_table(turns))
    failed = sorted({each.number for each in turns if each.tool_errors})
    if failed:
        count = sum(each.tool_errors for each in turns)
        err.line(
            f"tokentape: {count:,} tool call{'' if count == 1 else 's'} failed; see them with: "
            + show_command(recording.run_id, store, "--turn", str(failed[0]))
        )


def run_json(recording: tt.Recording, store: str, *, first_turn: int = 1) -> dict[str, Any]:
    """Return the turns, from one on, of a run that was just recorded, as a JSON object."""
    rows = [_row(turn) for turn in read_overviews(recording, first_turn=first_turn)]
    return {"run_id": recording.run_id, "store": store, "turns": rows}


def _row(turn: TurnOverview) -> dict[str, Any]:
    return {
        "turn": turn.number,
        "messages": [{"role": each.role, "content": each.content} for each in turn.messages],
        "reply": None if turn.finished is None else turn.finished.text,
        "cache": None if turn.cache is None else asdict(turn.cache),
        "generated_tokens": turn.generated_tokens,
        "tool_errors": turn.tool_errors,
        "stop_reason": None if turn.finished is None else turn.finished.stop_reason,
    }


def _list_plans(as_json: bool) -> None:
    from tokentape.generation.plans import shipped_plans

    rows = [(each.name, len(each.turns()), each.description) for each in shipped_plans()]
    if as_json:
        names = ("name", "turns", "description")
        output.print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    out.lines(f"{name}  {turns} turns  {text}" for name, turns, text in rows)
