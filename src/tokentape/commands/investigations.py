"""The command `chat`, and what commands that record runs share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.chat_terminal import StandardTerminal
from tokentape.commands.options import (
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
from tokentape.screen import err, out
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords
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


class RunsBegun:
    """The runs of a command that can be resumed; called with the id of each that begins."""

    def __init__(self) -> None:
        self._run_ids: dict[str, None] = {}
        self.left = ""
        """What else is left to do, in a few words."""

    def __call__(self, run_id: str) -> None:
        self._run_ids[run_id] = None

    def ended(self, run_id: str) -> None:
        """Forget a run that came to its end."""
        self._run_ids.pop(run_id, None)

    def how_to_resume(self, store: str, options: list[str]) -> str:
        """Return the command that resumes them, and what is left, or nothing."""
        parts = [self.left] if self.left else []
        if self._run_ids:
            parts.insert(0, f"resume with: {resume_command(self._run_ids, store, options)}")
        return "".join(f"; {each}" for each in parts)


@contextmanager
def resume_hint(store: str, options: list[str]) -> Iterator[RunsBegun]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into a line that says how to resume, and an exit code.

    The yielded object is told the id of each run once it is known; `options` are those that
    resuming it needs.
    """
    begun = RunsBegun()
    try:
        yield begun
    except (KeyboardInterrupt, Terminated) as error:
        by = f" by {error.signal}" if isinstance(error, Terminated) else ""
        err.line(f"tokentape: interrupted{by}{begun.how_to_resume(store, options)}")
        code = error.code if isinstance(error, Terminated) else INTERRUPTED
        raise typer.Exit(int(code or INTERRUPTED)) from None


def recording_store(store: str, *, must_exist: bool = False) -> "DatabaseStore":
    """Open a store to record into. Raise StoreError for a sealed one, and in an object store."""
    from tokentape.store import DatabaseStore, database_url

    database_url(store)
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
