"""Commands that record: a protocol that runs by itself, and a conversation typed by hand."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.options import JsonOption, StoreOption
from tokentape.recorder.projections import Turn
from tokentape.store import DEFAULT_URL, DatabaseStore

if TYPE_CHECKING:
    from tokentape.generation.plans import ExperimentPlan

INTERRUPTED = 130
_CHAT = """\
You are a language model that can look at its own weights. Answer briefly, and say so where you do \
not know.

The tools that can be run for you:
{tools}

{memory}"""

ModelOption = Annotated[str, typer.Option(help="smollm2-demo, a folder, a GGUF file or a hub id.")]
NewTokensOption = Annotated[int | None, typer.Option(min=1, help="At most so many in a reply.")]
NameOption = Annotated[str | None, typer.Option(help="The run's name.")]


def run(
    protocol: Annotated[
        str | None,
        typer.Argument(metavar="PROTOCOL", help="One of --list, or a YAML file of your own."),
    ] = None,
    model: ModelOption = "smollm2-demo",
    store: StoreOption = DEFAULT_URL,
    seed: Annotated[int | None, typer.Option(help="In place of the protocol's.")] = None,
    turns: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    max_new_tokens: NewTokensOption = None,
    name: NameOption = None,
    list_protocols: Annotated[
        bool, typer.Option("--list", help="List the protocols that come with tokentape.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a protocol to its end, unattended, and record it."""
    if list_protocols:
        _list_protocols(as_json)
        return
    if protocol is None:
        raise typer.BadParameter("name a protocol; --list shows those that there are")
    from tokentape.generation.plans import load_plan

    chosen = load_plan(protocol).with_limits(
        seed=seed, turns_max=turns, max_new_tokens=max_new_tokens
    )
    run_id = ""
    try:
        with output.working(f"loading {model}"):
            lm = tt.load_model(model)
        with recording_store(store) as opened:
            investigation = _investigation(lm, opened, chosen, name)
            run_id = investigation.run_id
            _take_turns(investigation, chosen)
            recording = opened.recording(run_id)
            print_run(recording, recording.turns(), store, as_json)
    except KeyboardInterrupt:
        on = f"; go on with: tokentape resume {run_id} --store {store}" if run_id else ""
        sys.stderr.write(f"tokentape: interrupted{on}\n")
        raise typer.Exit(INTERRUPTED) from None


def chat(
    model: ModelOption = "smollm2-demo",
    system: Annotated[
        str, typer.Option(help="The system prompt; {tools} and {memory} in it are filled.")
    ] = _CHAT,
    store: StoreOption = DEFAULT_URL,
    name: NameOption = None,
    seed: Annotated[int, typer.Option(help="That of the run.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most so many in a reply.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")
    ] = 0.7,
) -> None:
    """Talk with a model; all of it is recorded. /help says what else can be typed."""
    with output.working(f"loading {model}"):
        lm = tt.load_model(model)
    from tokentape.generation.investigation.chat_session import ChatSession, EventTap

    tools = tt.default_tools(lm)
    with recording_store(store) as opened:
        witness = EventTap(opened)
        with tt.Investigation(
            lm,
            store=witness,
            name=name or "chat",
            system_prompt=system,
            tools=tools,
            seed=seed,
            at_context_limit="prune_turns",
        ) as investigation:
            sys.stderr.write(f"recording run {investigation.run_id} into {opened.where}; /help\n")
            settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
            settings |= {"do_sample": True, "top_p": 0.9} if temperature else {}
            ChatSession(lm, investigation, tools, witness, settings).go()
    sys.stderr.write(
        f"recorded; look at it with: tokentape show {investigation.run_id} --store {store}\n"
    )


def _investigation(
    lm: "tt.LoadedModel", store: DatabaseStore, protocol: "ExperimentPlan", name: str | None
) -> "tt.Investigation":
    """What a protocol says, made ready; whatever does not fit the model is refused here."""
    from tokentape.generation.plans import chosen_tools, fitted_turns

    fitted_turns(protocol, lm.model, lm.tokenizer)
    return tt.Investigation(
        lm,
        store=store,
        name=name or protocol.name,
        system_prompt=protocol.system_prompt,
        tools=chosen_tools(protocol, tt.default_tools(lm)),
        seed=protocol.seed,
        at_context_limit=protocol.limits.at_context_limit,
        tool_calls_max=protocol.limits.tool_calls_max,
        behaviour={"protocol": protocol.described()},
    )


def _take_turns(investigation: "tt.Investigation", protocol: "ExperimentPlan") -> None:
    from tokentape.generation.plans import run_plan
    from tokentape.turns_bar import turns_bar

    with investigation, turns_bar(len(protocol.turns())) as bar:
        run_plan(
            investigation,
            protocol,
            progress=lambda turn, reply: bar.turn(reply),
            callback=bar.token,
        )


def recording_store(store: str, *, must_exist: bool = False) -> DatabaseStore:
    """A store that can be recorded into. Raises StoreError for a sealed one."""
    opened = tt.open_store(store, must_exist=must_exist)
    if not isinstance(opened, DatabaseStore):
        raise tt.StoreError(f"{store} is sealed: record into a database, --store sqlite:///runs.db")
    return opened


def print_run(recording: tt.Recording, turns: list[Turn], store: str, as_json: bool) -> None:
    """What a run has come to, once it is recorded."""
    if as_json:
        rows = [_row(turn) for turn in turns]
        output.print_json({"run_id": recording.run_id, "store": store, "turns": rows})
        return
    console = output.console()
    console.print(f"run {recording.run_id}", markup=False)
    console.print(output.turns_table(turns))


def _row(turn: Turn) -> dict[str, Any]:
    return {
        "turn": turn.number,
        "messages": [{"role": each.role, "content": each.content} for each in turn.messages],
        "reply": turn.reply_text,
        "cache": None if turn.cache is None else asdict(turn.cache),
        "generated_tokens": len(turn.tokens),
        "stop_reason": None if turn.finished is None else turn.finished.stop_reason,
    }


def _list_protocols(as_json: bool) -> None:
    from tokentape.generation.plans import shipped_plans

    rows = [(each.name, len(each.turns()), each.description) for each in shipped_plans()]
    if as_json:
        names = ("name", "turns", "description")
        output.print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    sys.stdout.writelines(f"{name}  {turns} turns  {said}\n" for name, turns, said in rows)
