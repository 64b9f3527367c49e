"""The command `erase`."""

from dataclasses import asdict
from typing import Annotated

import typer

from tokentape import output
from tokentape.commands.options import (
    JsonOption,
    OneRunArgument,
    StoreOption,
    find_recording,
    locate_run,
    open_live,
)
from tokentape.screen import err, out
from tokentape.store.default_store import DEFAULT_URL


def erase(
    run: OneRunArgument,
    store: StoreOption = DEFAULT_URL,
    reason: Annotated[str, typer.Option(help="A reason to store in the tombstone.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Erase a run for good: its events, and tool results that no other run shares."""
    named, store = locate_run(run, store)
    opened = open_live(store)
    run_id = find_recording(opened, named, only=True).run_id
    if not yes and not err.confirm(f"erase run {run_id} from {opened.where}?"):
        raise typer.Exit(2)
    erased = opened.erase(run_id, reason=reason)
    if as_json:
        output.print_json(asdict(erased) | {"backups": [str(each) for each in erased.backups]})
    else:
        out.text(output.erasure_text(erased))
