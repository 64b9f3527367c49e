"""What most commands take, and how they find what is meant."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

import tokentape as tt
from recorder.projections import Turn
from store import DatabaseStore, ParquetStore

RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="A run id or its unambiguous beginning; the newest run if left out."
    ),
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="TOKENTAPE_DATABASE_URL",
        help="A database URL, a SQLite file, a folder of sealed runs or a tape.",
    ),
]
TurnOption = Annotated[
    list[int] | None, typer.Option("--turn", help="Only this turn; may be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def open_stored(store: str) -> DatabaseStore | ParquetStore:
    return tt.open_store(store, must_exist=True)


def find_recording(store: DatabaseStore | ParquetStore, run: str | None) -> tt.Recording:
    if run is None:
        summaries = store.summaries()
        if not summaries:
            raise tt.NothingToReplayError(f"{store.where} holds no run")
        run = summaries[-1].run_id
    return store.recording(run)


def turn_json(turn: Turn) -> dict[str, Any]:
    return asdict(turn) | {"reply_ids": list(turn.reply_ids), "reply_text": turn.reply_text}
