"""Tables, JSON and summaries on standard output; progress on standard error."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from tokentape.recorder.projections import RunSummary, Turn
from tokentape.recorder.turn_overviews import TurnOverview
from tokentape.streams import is_unicode

if TYPE_CHECKING:
    from tokentape.replay import Floor
    from tokentape.store import Erasure, Integrity
    from tokentape.store.signing.signatures import SignatureCheck

# A pipe has no width, and 80 columns would cut the tables.
_PIPE_COLUMNS = 160
progress_console = Console(stderr=True)


def console() -> Console:
    """Return a console for standard output: as wide as the terminal, or 160 columns."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output, in ASCII where that cannot hold each character."""
    text = json.dumps(value, ensure_ascii=not is_unicode(sys.stdout), indent=2)
    # A lone surrogate, as in a file name, cannot be encoded; its JSON escape is equivalent.
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")


@contextmanager
def progress(description: str, extra: str = "") -> Iterator[Progress]:
    """Show a progress bar on standard error; `extra` is the template of a last column."""
    columns = [
        TextColumn(description),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn(extra),
    ]
    # A bar in a log file is noise, and rich 13 ends even a disabled one with an empty line.
    hidden = not progress_console.is_terminal
    bar = Progress(*columns, console=progress_console, transient=True, disable=hidden)
    with nullcontext() if hidden else bar:
        yield bar


@contextmanager
def working(description: str) -> Iterator[None]:
    """Show a spinner on standard error, for work without a known number of steps."""
    if not progress_console.is_terminal:
        yield
        return
    spinner = "dots" if is_unicode(sys.stderr) else "line"
    with progress_console.status(description, spinner=spinner):
        yield


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
    return "\n  ".join(lines) + "\n"


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
    return "\n".join(lines) + "\n"


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
    return "\n".join(lines) + "\n"


def runs_table(summaries: Sequence[RunSummary], statuses: Mapping[str, str]) -> Table:
    """Return a table with a row per run; `statuses`, by run id, replace those of summaries."""
    table = Table("run", "name", "model", "status", box=None)
    for heading in ("turns", "prompt", "reused", "generated"):
        table.add_column(heading, justify="right")
    for run in summaries:
        table.add_row(
            run.run_id,
            # A name is text, even if it looks like markup.
            Text(run.name),
            Text(run.model),
            statuses.get(run.run_id, run.status),
            *(
                f"{count:,}"
                for count in (run.turns, run.prompt_tokens, run.reused_tokens, run.generated_tokens)
            ),
        )
    return table


def turns_table(turns: Iterable[Turn | TurnOverview]) -> Table:
    """Return a table with a row per turn: prompt, cache decision, sampling and stop reason."""
    table = Table(box=None)
    for heading in ("turn", "prompt", "reused", "computed", "generated"):
        table.add_column(heading, justify="right")
    for heading in ("cache", "reason", "sampling", "stopped by"):
        table.add_column(heading)
    table.add_column("seconds", justify="right")
    for turn in turns:
        cache, finished = turn.cache, turn.finished
        table.add_row(
            str(turn.number),
            f"{turn.started.prompt_tokens:,}",
            f"{cache.reused_tokens:,}" if cache else "",
            f"{cache.computed_tokens:,}" if cache else "",
            str(len(turn.tokens) if isinstance(turn, Turn) else turn.generated_tokens),
            cache.decision if cache else "",
            Text(cache.reason if cache else ""),
            _sampling(turn),
            Text(finished.stop_reason if finished else "(cut off)"),
            f"{finished.duration_us / 1_000_000:.1f}" if finished else "",
        )
    return table


def _sampling(turn: Turn | TurnOverview) -> str:
    settings = turn.started.sampling
    if not settings.get("do_sample"):
        return "greedy"
    return f"T={settings.get('temperature')} p={settings.get('top_p')}"
