"""The commands `tag` and `note`."""

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
from tokentape.screen import out
from tokentape.store import DEFAULT_URL
from tokentape.store.labels import Labels


def tag(
    run: OneRunArgument,
    tags: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TAG]...", help="Tags to add: words without a comma."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", "-r", metavar="TAG", help="Remove this tag; may be repeated."),
    ] = None,
    store: StoreOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Add tags to a run, or remove some, and print those that it has."""
    named, store = locate_run(run, store)
    with open_live(store) as opened:
        run_id = find_recording(opened, named, only=True).run_id
        # First, so that a tag that the run does not have changes nothing.
        opened.untag(run_id, *(remove or ()))
        opened.tag(run_id, *(tags or ()))
        labels = opened.labels_by_run().get(run_id, Labels())
    if as_json:
        output.print_json({"run_id": run_id, "tags": labels.tags})
    else:
        out.line(f"run {run_id}: {labels.joined_tags or 'no tags'}")


def note(
    run: OneRunArgument,
    text: Annotated[
        str | None,
        typer.Argument(help="The new note; empty removes it. Without it the note is printed."),
    ] = None,
    store: StoreOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Replace the note of a run, or print it."""
    named, store = locate_run(run, store)
    with open_live(store) as opened:
        run_id = find_recording(opened, named, only=True).run_id
        if text is not None:
            opened.note(run_id, text)
        labels = opened.labels_by_run().get(run_id, Labels())
    if as_json:
        output.print_json({"run_id": run_id, "note": labels.note})
    elif text is None:
        out.text(f"{labels.note}\n" if labels.note else "")
