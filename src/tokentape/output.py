"""Tables and summaries for standard output; progress on standard error."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.spinner import Spinner
from rich.text import Text

from tokentape.recorder.escapes import single_line
from tokentape.recorder.events import RunForked
from tokentape.recorder.projections import RunSummary, Turn
from tokentape.recorder.turn_overviews import TurnOverview
from tokentape.screen import Table, err, live_below, out
from tokentape.store.run_names import local_time
from tokentape.streams import is_unicode

if TYPE_CHECKING:
    from tokentape.replay import Floor
    from tokentape.replay.reports.turn_page import ReplyToken
    from tokentape.store import Erasure, Integrity
    from tokentape.store.labels import Labels
    from tokentape.store.signing.signatures import SignatureCheck

_SPINNER_HZ = 12.5
_SPINNING: ContextVar[bool] = ContextVar("spinning", default=False)
# `running (process gone)` and the name of an exception fit.
_STATUS_CHARS = 28
# The least widths of columns in a narrow terminal.
_NAME_CHARS, _INTERRUPTED_CHARS, _PARENT_CHARS = 10, 11, 13
_SAMPLING_CHARS, _STOP_CHARS = 8, 10


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    out.json(value)


@contextmanager
def progress(
    description: str, extra: str = "", *, bar_columns: int = 24, shows_elapsed: bool = True
) -> Iterator[Progress]:
    """Show a progress bar on standard error; `extra` is the template of a last column."""
    columns = [
        TextColumn(description, markup=False),
        BarColumn(bar_width=bar_columns),
        MofNCompleteColumn(),
        *([TimeElapsedColumn()] if shows_elapsed else []),
        TextColumn(extra, markup=False),
    ]
    # A bar in a log file is noise, and rich 13 ends even a disabled one with an empty line.
    hidden = not err.is_terminal
    bar = Progress(
        *columns,
        console=err.console(),
        transient=True,
        disable=hidden,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with nullcontext() if hidden else live_below(bar.live):
        yield bar


@contextmanager
def working(description: str) -> Iterator[None]:
    """Show a spinner on standard error, for work without a known number of steps.

    Within another spinner the other one stays.
    """
    if not err.is_terminal or _SPINNING.get():
        yield
        return
    spinner = Spinner("dots" if is_unicode(err.stream) else "line", Text(single_line(description)))
    display = Live(
        spinner,
        console=err.console(),
        transient=True,
        refresh_per_second=_SPINNER_HZ,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    token = _SPINNING.set(True)
    try:
        with live_below(display):
            yield
    finally:
        _SPINNING.reset(token)


def integrity_text(found: "Integrity") -> str:
    """Return the result of a check in a few lines."""
    verdict = "as recorded" if found.ok else "NOT as recorded"
    if found.unmet and not found.faults:
        verdict = "as recorded, but NOT as expected"
    elif found.ok and not found.is_sealed:
        verdict = "cannot be checked: no turn is sealed"
    lines = [
        f"run {found.run_id}: {verdict}",
        f"{found.events:,} events, {found.sealed_turns} sealed turns",
        f"last seal {found.last_seal}",
    ]
    if found.unsealed_events and found.ok:
        lines.append(f"{found.unsealed_events:,} events after it are not sealed yet")
    if found.bad_turn is not None:
        lines.append(f"the first bad turn is {found.bad_turn}")
    lines += (signature_text(each) for each in found.signatures if each.is_right)
    lines += (each.reason for each in found.signatures if each.state == "unchecked")
    lines += (*found.faults, *found.unmet)
    first, *others = lines
    return _text([first, *(f"  {each}" for each in others)])


def signature_text(signature: "SignatureCheck") -> str:
    """Return in a line who signed a run, and up to where; or why the signature is not right."""
    if not signature.is_right:
        return f"a signature is not right: {signature.reason}"
    signer = "an unknown key" if signature.signer is None else signature.signer
    turn = "" if signature.last_turn is None else f", up to turn {signature.last_turn}"
    more = f"; {signature.reason}" if signature.reason else ""
    return f"signed by {signer} ({signature.key}){turn}{more}"


def erasure_text(erased: "Erasure") -> str:
    """Return the counts of an erasure, and the places where copies may remain."""
    lines = [f"erased run {erased.run_id}: {erased.events:,} events, {erased.blobs} payloads"]
    if erased.residue:
        lines.append(f"  its bytes may remain: {erased.residue}")
    lines += [f"  a backup may still have it: {path}" for path in erased.backups]
    return _text(lines)


def floor_text(floor: "Floor", path: Path | None) -> str:
    """Return a measured noise floor, and the limits that follow from it, in a few lines."""
    lines = [
        f"floor {floor.version}, over {floor.tokens:,} tokens: {floor.measured_on}",
        f"  margins move by {floor.margin_noise:.1e} logits on average: a pick may differ where "
        f"they are below {floor.margin_eps:.2g}",
        f"  log-probabilities move by {floor.logprob_noise:.1e} nats on average: drift begins "
        f"above {floor.logprob_floor:.2g}",
    ]
    if path is not None:
        lines.append(f"  written to {path}; use it with `tokentape verify --floor`")
    return _text(lines)


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{single_line(each)}\n" for each in lines)


def with_tool_errors(status: str, count: int) -> str:
    """Return the status of a run with its number of tool errors, if there are any."""
    return f"{status}, {count:,} tool error{'' if count == 1 else 's'}" if count else status


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRows:
    """What a list shows of runs; the mappings are by run id."""

    summaries: Sequence[RunSummary]
    statuses: Mapping[str, str]
    """In place of the statuses of summaries."""
    tool_errors: Mapping[str, int]
    labels: "Mapping[str, Labels]"
    forks: Mapping[str, RunForked]
    """How those runs began that are forks."""
    parent_ids: Mapping[str, str]
    """Beginnings of the ids of the parents of forks, by the id of the parent."""
    shown_ids: Mapping[str, str]
    """The ids, or beginnings of them."""


def runs_table(rows: RunRows) -> Table:
    """Return a table with a row per run.

    It has columns for forks, tool errors, tags and notes only if a run has any. In a narrow
    terminal, that for forks is left out early if most runs are none.
    """
    forks = sum(each.parent_run_id is not None for each in rows.summaries)
    table = Table("run")
    table.add_column("started", drop=1)
    table.add_column("name", wrap=True, least=_NAME_CHARS)
    table.add_column("model", wrap=True, drop=5)
    table.add_column("status", wrap=True, least=_INTERRUPTED_CHARS)
    is_rare = 2 * forks <= len(rows.summaries)
    table.add_column(
        "fork of", wrap=True, if_any=True, drop=6 if is_rare else 3, least=_PARENT_CHARS
    )
    table.add_column("turns", justify="right", drop=2)
    table.add_column("prompt", justify="right", drop=9)
    table.add_column("reused", justify="right", drop=10)
    table.add_column("generated", justify="right", drop=8)
    table.add_column("tool errors", justify="right", if_any=True, drop=4)
    table.add_column("tags", wrap=True, if_any=True)
    table.add_column("note", wrap=True, if_any=True, drop=7)
    for run in rows.summaries:
        failed, labels = rows.tool_errors.get(run.run_id, 0), rows.labels.get(run.run_id)
        table.add_row(
            rows.shown_ids.get(run.run_id, run.run_id),
            local_time(run.started_at_us),
            run.name,
            run.model,
            _shortened(rows.statuses.get(run.run_id, run.status)),
            _fork_text(run, rows),
            _own_count(run, run.turns),
            f"{run.prompt_tokens:,}",
            f"{run.reused_tokens:,}",
            _own_count(run, run.generated_tokens),
            f"{failed:,}" if failed else "",
            labels.joined_tags if labels else "",
            _shortened(labels.note.partition("\n")[0]) if labels else "",
        )
    return table


def _own_count(run: RunSummary, count: int) -> str:
    """Return a number of a run as text; that of a fork is without the turns that it shares."""
    return f"{count:,} own" if run.has_shared_turns else f"{count:,}"


def _fork_text(run: RunSummary, rows: RunRows) -> str:
    """Return where a fork leaves its parent, and whether with another model; else nothing."""
    if run.parent_run_id is None:
        return ""
    forked = rows.forks.get(run.run_id)
    place = f"turn {run.forked_at_turn}" if forked is None else forked.place
    other = ", other model" if forked is not None and forked.other_model else ""
    return f"{rows.parent_ids.get(run.parent_run_id, run.parent_run_id)} at {place}{other}"


def _shortened(text: str) -> str:
    """Return the text, cut where it would push the other columns off the screen."""
    return text if len(text) <= _STATUS_CHARS else f"{text[: _STATUS_CHARS - 1]}…"


def turns_table(turns: Iterable[Turn | TurnOverview]) -> Table:
    """Return a table with a row per turn: prompt, cache decision, sampling and stop reason.

    It has a column for interventions, adapters and own processors only if a turn has any.
    """
    table = Table()
    table.add_column("turn", justify="right")
    table.add_column("inside the model", wrap=True, if_any=True)
    table.add_column("prompt", justify="right")
    table.add_column("reused", justify="right", drop=1)
    table.add_column("computed", justify="right", drop=5)
    table.add_column("generated", justify="right")
    table.add_column("cache", drop=2)
    table.add_column("reason", wrap=True, drop=4)
    table.add_column("sampling", wrap=True, drop=3, least=_SAMPLING_CHARS)
    table.add_column("stopped by", wrap=True, least=_STOP_CHARS)
    table.add_column("seconds", justify="right", drop=6)
    for turn in turns:
        cache, finished = turn.cache, turn.finished
        table.add_row(
            str(turn.number),
            turn.inside_model.brief(),
            f"{turn.started.prompt_tokens:,}",
            f"{cache.reused_tokens:,}" if cache else "",
            f"{cache.computed_tokens:,}" if cache else "",
            str(len(turn.tokens) if isinstance(turn, Turn) else turn.generated_tokens),
            cache.decision if cache else "",
            cache.reason if cache else "",
            _sampling(turn),
            finished.stop_reason if finished else "(cut off)",
            f"{finished.duration_us / 1_000_000:.1f}" if finished else "",
        )
    return table


def _sampling(turn: Turn | TurnOverview) -> str:
    settings = turn.started.sampling
    if not settings.get("do_sample"):
        return "greedy"
    return f"T={settings.get('temperature')} p={settings.get('top_p')}"


def reply_tokens_table(tokens: "Iterable[ReplyToken]") -> Table:
    """Return a table with a row per token of a reply."""
    table = Table()
    table.add_column("position", justify="right", drop=3)
    table.add_column("step", justify="right", drop=2)
    table.add_column("id", justify="right")
    table.add_column("text", wrap=True, if_any=True)
    table.add_column("logprob", justify="right")
    table.add_column("entropy", justify="right")
    table.add_column("gap", justify="right", drop=1)
    table.add_column("likeliest", wrap=True)
    for each in tokens:
        numbers = (f"{each.logprob:.3f}", f"{each.entropy:.3f}", f"{each.gap:.3f}")
        place = (str(each.position), str(each.step), str(each.token_id))
        table.add_row(*place, each.text, *numbers, each.likeliest)
    return table
