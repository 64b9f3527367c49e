"""The commands `list`, `show` and `check`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape import store as stores
from tokentape.commands.imported_runs import check_has_tokens, print_imported
from tokentape.commands.labels import WithTagOption, labels_of
from tokentape.commands.options import (
    JsonOption,
    RunArgument,
    SignersOption,
    Store,
    StoreOption,
    TurnOption,
    find_recording,
    last_seal,
    locate_run,
    open_stored,
    select_turns,
    tokenizer_as_recorded,
    turn_json,
)
from tokentape.commands.run_rows import ending_json, rows_of
from tokentape.commands.signing import check_signatures, claimed_signatures, signatures_json
from tokentape.recorder.events import RunStarted, ToolCalled, ToolReturned
from tokentape.recorder.projections import Turn
from tokentape.recorder.projections.lineage_tree import draw_lineage, lineage_of
from tokentape.recorder.turn_overviews import read_overviews
from tokentape.replay.reports.turn_page import (
    PromptSections,
    Spelling,
    TokenOrder,
    page_json,
    pieces_of,
    prompt_sections,
    prompt_token_lines,
    render_page,
    reply_tokens,
    spelling_of,
    tool_lines,
    tools_of_round,
)
from tokentape.screen import err, out
from tokentape.store.default_store import DEFAULT_URL
from tokentape.store.run_names import local_time

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import PreTrainedTokenizerBase

    from tokentape.recorder.projections import RunSummary
    from tokentape.store import RunProcess
    from tokentape.store.labels import Labels


def list_runs(
    place: Annotated[
        str | None, typer.Argument(metavar="STORE", help="The store, in place of --store.")
    ] = None,
    store: StoreOption = DEFAULT_URL,
    last: Annotated[
        int, typer.Option("--last", "-n", min=0, help="List at most this many; 0 lists all.")
    ] = 50,
    name: Annotated[
        str | None, typer.Option(help="Only runs with this in the name; * and ? make a pattern.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only runs of such a model.")] = None,
    plan: Annotated[
        str | None, typer.Option("--plan", "--protocol", help="Only runs of such a plan.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="Only running, finished, interrupted, failed or imported runs."),
    ] = None,
    tag: WithTagOption = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only runs that started then or later: 2026-11-27, '2026-11-27 14:30', or 2d for "
            "two days ago (s, min, h, d, w).",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only runs that started before, or that day.")
    ] = None,
    said: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Only runs in which the user, the model or a tool said this."
        ),
    ] = None,
    signers: SignersOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the newest runs of a store, the newest last; with --json all runs.

    Conditions on texts ignore case, and a run fulfils all of them.
    """
    opened = open_stored(place or store)
    given = {"name": name, "model": model, "plan": plan, "status": status, "tag": tag}
    given |= {"since": since, "until": until, "said": said}
    where: Any = {key: value for key, value in given.items() if value not in (None, [])}
    summaries = opened.summaries(**where)
    if as_json:
        _print_list_json(opened, summaries, signers)
        return
    shown = summaries[-last:] if last else summaries
    if summaries:
        out.show(output.runs_table(rows_of(opened, shown)))
    else:
        err.line(_why_none(opened, bool(where)))
    if len(shown) < len(summaries):
        err.line(f"and {len(summaries) - len(shown):,} older runs: --last 0 shows all")


def _why_none(opened: Store, has_conditions: bool) -> str:
    """Return why no run is listed."""
    count = len(opened.summaries()) if has_conditions else 0
    if not count:
        return f"{opened.where} holds no run"
    return f"no run matches: {count:,} {'run' if count == 1 else 'runs'} in {opened.where}"


def _runs_frame(opened: Store) -> "DataFrame":
    """Return `runs_df`, without what events say if one is damaged: the other runs are listed."""
    from tokentape.store.frames.run_details import SUMMARY_COLUMNS

    try:
        return tt.runs_df(opened)
    except tt.RecordingError:
        return tt.runs_df(opened, columns=SUMMARY_COLUMNS)


def _print_list_json(opened: Store, summaries: "list[RunSummary]", signers: Path | None) -> None:
    """Print the columns of `runs_df` as JSON, with the signatures and process of each run."""
    run_ids = [each.run_id for each in summaries]
    frame = _runs_frame(opened)
    frame = frame[frame["run_id"].isin(run_ids)]
    rows = json.loads(frame.to_json(orient="records", date_format="iso", date_unit="us"))
    processes = _processes(opened, summaries)
    signatures = claimed_signatures(opened, signers)
    tool_errors = stores.count_tool_errors(opened, run_ids)
    forks = stores.forks_of(opened, summaries)
    for row in rows:
        if forked := forks.get(row["run_id"]):
            row["forked_at_token"] = forked.at_token
            row["other_model"] = list(forked.other_model)
        if count := tool_errors.get(row["run_id"]):
            row["tool_errors"] = count
        if checked := signatures.get(row["run_id"]):
            row["signatures"] = signatures_json(checked)
        if process := processes.get(row["run_id"]):
            row["process"] = process.as_json()
    output.print_json(rows)


def _processes(opened: Store, summaries: "list[RunSummary]") -> "dict[str, RunProcess]":
    """Return the processes of the runs that have not ended, by run id."""
    found = ((each.run_id, stores.process_of(opened, each)) for each in summaries)
    return {run_id: process for run_id, process in found if process is not None}


def show(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    turn: TurnOption = None,
    tokens: Annotated[
        bool,
        typer.Option("--tokens", help="With --turn: list every token and its alternatives."),
    ] = False,
    reply: Annotated[
        bool, typer.Option("--reply", help="With --turn: print only the text of the reply.")
    ] = False,
    sort: Annotated[
        TokenOrder,
        typer.Option(
            help="With --tokens: the order of the reply's tokens. By entropy the highest is first; "
            "by logprob and gap the lowest."
        ),
    ] = TokenOrder.STEP,
    tree: Annotated[
        bool, typer.Option("--tree", help="Draw the runs it was forked from, and its forks.")
    ] = False,
    signers: SignersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run and its turns; with --turn, the exact prompt and reply of a turn."""
    _check_show_options(turn, tokens=tokens, reply=reply, as_json=as_json, sort=sort)
    if tree and turn:
        raise typer.BadParameter("--tree shows runs and --turn a turn: give one of them")
    run, store = locate_run(run, store)
    opened = open_stored(store)
    recording = find_recording(opened, run)
    if turn:
        check_has_tokens(recording)
    if tree:
        _print_family(opened, recording.run_id, as_json)
        return
    if reply:
        for page in _pages(recording, turn):
            out.text(f"{page.turn.reply_text or ''}\n")
        return
    started, imported = recording.started(), recording.imported()
    tokenizer = tokenizer_as_recorded(started) if tokens else None
    signatures = check_signatures(opened, recording, signers)
    labels = labels_of(opened, recording.run_id)
    if as_json:
        forked = recording.forked()
        pages = _pages(recording, turn)
        process = _process(opened, recording.run_id)
        output.print_json(
            {"run_id": recording.run_id, "started": asdict(started)}
            | {"process": None if process is None else process.as_json()}
            | ending_json(recording)
            | {"forked": None if forked is None else asdict(forked)}
            | {"imported": None if imported is None else asdict(imported)}
            | {"tags": labels.tags, "note": labels.note}
            | {"last_seal": last_seal(recording), "signatures": signatures_json(signatures)}
            | {"tool_errors": _tool_errors(opened, recording.run_id)}
            | {"turns": [_turn_json(page, tokenizer, tokens) for page in pages]}
        )
        return
    pages = _pages(recording, turn) if turn else []
    _print_head(opened, recording, labels)
    out.lines(f"  {output.signature_text(each)}" for each in signatures)
    if imported is not None:
        print_imported(recording)
        return
    rows = [page.turn for page in pages] if turn else read_overviews(recording)
    out.show(output.turns_table(rows))
    spelling = spelling_of(recording, tokenizer) if tokens else None
    _print_pages(pages, spelling, sort)


def _check_show_options(
    turn: list[int] | None, *, tokens: bool, reply: bool, as_json: bool, sort: TokenOrder
) -> None:
    """Raise BadParameter if an option of `show` lacks an option that it needs."""
    if tokens and not turn:
        raise typer.BadParameter("--tokens needs --turn: a run has too many tokens to list")
    if reply and (tokens or not turn or as_json):
        raise typer.BadParameter("--reply needs --turn, and neither --tokens nor --json")
    if sort is not TokenOrder.STEP and not tokens:
        raise typer.BadParameter("--sort orders the list of --tokens: add that")


def _print_pages(pages: "list[_Page]", spelling: Spelling | None, sort: TokenOrder) -> None:
    """Print rounds of turns; with a spelling, their tokens, too."""
    for page in pages:
        _print_turn(page)
        if spelling is not None:
            out.lines(prompt_token_lines(page.turn, page.sections, spelling))
            out.show(output.reply_tokens_table(reply_tokens(page.turn, spelling, sort)))


def _print_head(opened: Store, recording: tt.Recording, labels: "Labels") -> None:
    """Print the properties of a run, a line each."""
    started = recording.started()
    summary = opened.summary(recording.run_id)
    out.line(f"run {recording.run_id}")
    for name in ("name", "model", "seed", "dtype", "device", "attention_kernel"):
        out.line(f"  {name:<17}{getattr(started, name)}")
    if (plan := _plan_name(started)) is not None:
        out.line(f"  {'plan':<17}{plan}")
    status = _status(opened, recording)
    status = output.with_tool_errors(status, _tool_errors(opened, recording.run_id))
    out.line(f"  {'status':<17}{status}")
    if (forked := recording.forked()) is not None:
        out.line(f"  {'forked from':<17}{forked.origin}")
    if (imported := recording.imported()) is not None:
        out.line(f"  {'imported from':<17}{imported.place}, without tokens")
    if summary is not None:
        out.line(f"  {'started':<17}{local_time(summary.started_at_us)}")
    if labels.tags:
        out.line(f"  {'tags':<17}{labels.joined_tags}")
    if labels.note:
        first, *others = labels.note.splitlines()
        out.lines([f"  {'note':<17}{first}", *(f"  {'':<17}{each}" for each in others)])
    out.line(f"  {'last seal':<17}{last_seal(recording) or 'none yet'}")


def _plan_name(started: RunStarted) -> str | None:
    """Return the name of the plan that a run follows, if it follows one."""
    plan = started.settings.get("plan")
    name = plan.get("name") if isinstance(plan, Mapping) else None
    return None if name is None else str(name)


def _status(opened: Store, recording: tt.Recording) -> str:
    """Return the status of a run: with its process if it has not ended, with its error if it
    failed."""
    process = _process(opened, recording.run_id)
    if process is not None:
        return f"running: {process.describe()}"
    ended = recording.ended()
    return "unknown" if ended is None else ended.status_text


def _tool_errors(opened: Store, run_id: str) -> int:
    return stores.count_tool_errors(opened, [run_id]).get(run_id, 0)


def _process(opened: Store, run_id: str) -> "RunProcess | None":
    summary = opened.summary(run_id)
    return None if summary is None else stores.process_of(opened, summary)


def _print_family(store: Store, run_id: str, as_json: bool) -> None:
    family = lineage_of(run_id, store.summaries())
    runs = list(family.summaries())
    forks = stores.forks_of(store, runs)
    if as_json:
        output.print_json(family.as_json(stores.errors_of(store, runs), forks))
    else:
        out.show(draw_lineage(family, run_id, stores.status_texts(store, runs), forks))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """A round of a turn, with the sections and the tool events printed around its texts."""

    turn: Turn
    sections: PromptSections
    tools: list[ToolCalled | ToolReturned]


def _pages(recording: tt.Recording, numbers: list[int] | None) -> list[_Page]:
    """Return the rounds of some turns, or of all. Raise TokentapeError for an unknown turn."""
    selected = select_turns(recording, numbers)
    return [
        _Page(
            turn=each.turn,
            sections=prompt_sections(each.turn, each.seams()),
            tools=tools_of_round(each.turn, selected.envelopes),
        )
        for each in selected.rebuilt()
    ]


def _print_turn(page: _Page) -> None:
    from tokentape.replay.reports.terminal import render_turn

    console = out.console()
    out.text(f"{render_turn(page.turn)}\n")
    out.lines(f"  {line}" for line in tool_lines(page.tools))
    for text, is_cached in render_page(page.turn, page.sections):
        # Wrapped lines would look like line breaks that the model read.
        console.print(text, style="dim" if is_cached else None, soft_wrap=True)


def _turn_json(
    page: _Page, tokenizer: "PreTrainedTokenizerBase | None", tokens: bool
) -> dict[str, Any]:
    pieces = pieces_of(tokenizer, page.turn) if tokens else {}
    return turn_json(page.turn) | page_json(page.sections, page.tools) | pieces


def check(
    run: RunArgument = None,
    store: StoreOption = DEFAULT_URL,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect",
            "--seal",
            metavar="SEAL",
            help="The last seal as you noted it before, or its first 16 or more digits.",
        ),
    ] = None,
    signers: SignersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a run was not altered: compute its seals again and compare.

    Exit code 1: altered, not as expected, continued after the expected seal, not signed by one of
    the signers, or nothing is sealed.
    """
    run, store = locate_run(run, store)
    opened = open_stored(store)
    found = tt.check(opened, find_recording(opened, run).run_id, expect=expect, signers=signers)
    if as_json:
        states = {"ok": found.ok, "is_sealed": found.is_sealed}
        output.print_json(asdict(found) | states)
    else:
        out.text(output.integrity_text(found))
    raise typer.Exit(0 if found.ok and found.is_sealed else 1)
