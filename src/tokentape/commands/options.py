"""What most commands take, and how they find what is meant."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

import tokentape as tt
from tokentape import output
from tokentape.recorder.events import RunStarted
from tokentape.recorder.projections import Turn
from tokentape.store import DatabaseStore, ParquetStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokentape.replay import Floor

Store = DatabaseStore | ParquetStore

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


def open_stored(store: str) -> Store:
    return tt.open_store(store, must_exist=True)


def find_recording(store: Store, run: str | None) -> tt.Recording:
    if run is None:
        summaries = store.summaries()
        if not summaries:
            raise tt.NothingToReplayError(f"{store.where} holds no run")
        run = summaries[-1].run_id
    return store.recording(run)


def load_as_recorded(name: str, started: RunStarted) -> "tt.LoadedModel":
    """A model in the type of numbers that the run was recorded in, where that is one to load."""
    known = started.dtype in ("float32", "bfloat16", "float16")
    return tt.load_model(name, dtype=started.dtype if known else "float32")


def tokenizer_as_recorded(started: RunStarted) -> "PreTrainedTokenizerBase | None":
    """The tokenizer alone; None where it is not on this machine, or another one by now."""
    from tokentape.generation.fingerprints import tokenizer_sha256
    from tokentape.generation.models.loading import load_tokenizer

    try:
        with output.working("loading the tokenizer"):
            tokenizer = load_tokenizer(started.model)
    except tt.ModelError:
        return None
    return tokenizer if tokenizer_sha256(tokenizer) == started.tokenizer_sha256 else None


def kept_floor(recording: tt.Recording, opened: Store, lm: "tt.LoadedModel") -> "Floor | None":
    """The newest floor beside the run, where none is built in for the model.

    A recording that brings its own floor is not to be judged by it where there is another.
    """
    from tokentape.replay.checking.noise_floor import floor_from, floor_of

    kept = opened.floors(recording.run_id)
    if not kept or floor_of(lm, recording.started().dtype) is not None:
        return None
    return floor_from(kept[-1].floor, f"the floor kept beside run {recording.run_id}")


def turn_json(turn: Turn) -> dict[str, Any]:
    return asdict(turn) | {"reply_ids": list(turn.reply_ids), "reply_text": turn.reply_text}
