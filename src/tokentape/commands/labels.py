"""The commands `tag` and `note`."""

from typing import TYPE_CHECKING, Annotated

import typer

from tokentape import output
from tokentape.commands.completion import complete_tag
from tokentape.commands.options import (
    JsonOption,
    OneRunArgument,
    Store,
    StoreOption,
    find_recording,
    locate_run,
    open_live,
)
from tokentape.screen import out
from tokentape.store.default_store import DEFAULT_URL

if TYPE_CHECKING:
    from tokentape.store.labels import Labels

WithTagOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TAG",
        help="Only runs with this tag; may be repeated.",
        autocompletion=complete_tag,
    ),
]


def tag(
    run: OneRunArgument,
    tags: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TAG]...",
            help="Tags to add: words without a comma.",
            autocompletion=complete_tag,
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            "--remove",
            "-r",
            metavar="TAG",
            help="Remove this tag; may be repeated.",
            autocompletion=complete_tag,
        ),
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
        labels = labels_of(opened, run_id)
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
        labels = labels_of(opened, run_id)
    if as_json:
        output.print_json({"run_id": run_id, "note": labels.note})
    elif text is None:
        out.text(f"{labels.note}\n" if labels.note else "")


def labels_of(store: Store, run_id: str) -> "Labels":
    """Return the tags and the note of a run."""
    from tokentape.store.labels import Labels, fold_labels

    return fold_labels(store.labels(run_id)).get(run_id, Labels())
