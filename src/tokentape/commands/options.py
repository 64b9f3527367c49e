"""Arguments and options that several commands share, and how they are resolved."""

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

import tokentape as tt
from tokentape import output
from tokentape.commands.completion import complete_run
from tokentape.recorder.events import RunStarted
from tokentape.recorder.paths import expand_path
from tokentape.recorder.projections import Turn
from tokentape.recorder.record import RecordFilter
from tokentape.recorder.seals import SEALED_KINDS
from tokentape.recorder.selected_turns import SelectedEvents, turn_numbers
from tokentape.screen import err
from tokentape.store.errors import UnknownRunError
from tokentape.store.run_names import ambiguous

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokentape.generation.models.loading_settings import LoadingKeywords
    from tokentape.store import DatabaseStore, ParquetStore

# A string: the classes are imported when a store is opened.
Store: TypeAlias = "DatabaseStore | ParquetStore"

RUN_HELP = "A run: its id or the beginning of one, its name, @last, a file, or FILE#RUN"
_MODEL = "The model: smollm2-demo, a folder, a GGUF file or a hub id"

RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help=f"{RUN_HELP}; by default the newest run.",
        autocompletion=complete_run,
    ),
]
RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN...",
        help=f"{RUN_HELP}; by default the newest run. Also a folder of tapes.",
        autocompletion=complete_run,
    ),
]
OneRunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help=f"{RUN_HELP}.", autocompletion=complete_run)
]
ModelOption = Annotated[str, typer.Option(help=f"{_MODEL}.")]
RecordedModelOption = Annotated[
    str | None, typer.Option(help=f"{_MODEL}; by default the recorded one.")
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="TOKENTAPE_DATABASE_URL",
        help="The store: a database URL, a SQLite file, a Parquet folder or a tape (or s3://…).",
    ),
]
TurnOption = Annotated[
    list[int] | None, typer.Option("--turn", help="Only this turn; may be repeated.")
]
SignersOption = Annotated[
    Path | None,
    typer.Option(
        "--signers",
        "--signer",
        envvar="TOKENTAPE_SIGNERS",
        parser=expand_path,
        metavar="FILE",
        help="Known keys: an allowed_signers file of OpenSSH, or public keys.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


_LOADING_OPTIONS: dict[str, Any] = {
    "dtype": Annotated[
        str | None, typer.Option(help="The dtype of the weights, such as bfloat16, or auto.")
    ],
    "compute_dtype": Annotated[
        str | None,
        typer.Option(
            help="The dtype to compute in, if it is wider than that of the weights: float32."
        ),
    ],
    "attn_implementation": Annotated[
        str | None,
        typer.Option(
            help="The attention kernel of transformers, such as sdpa or eager. owner/name is code "
            "of the hub, which is fetched and run."
        ),
    ],
    "revision": Annotated[
        str | None, typer.Option(help="The branch, tag or commit of a model of the hub.")
    ],
    "device_map": Annotated[
        str | None,
        typer.Option(help="Where the weights go: a device, auto, or JSON with one per module."),
    ],
    "quantization": Annotated[
        str | None,
        typer.Option(
            help="How the weights are quantized: int8, int4, int2 or float8 (by quanto), or JSON "
            "with quant_method."
        ),
    ],
    "adapter": Annotated[
        str | None,
        typer.Option(help="A PEFT adapter on top of the model: a folder or a hub id (ID@COMMIT)."),
    ],
    "offline": Annotated[bool, typer.Option("--offline", help="Read only files of this machine.")],
    "deterministic": Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Let torch use deterministic kernels, and warn of operations that have none.",
        ),
    ],
    "trust_remote_code": Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run the Python code of the model's repository."),
    ],
}
_LOADING_SWITCHES = ("offline", "deterministic", "trust_remote_code")


def loads_model(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how a model is loaded to a command, after its `--model`.

    The command gets them as the mapping `loading`: keywords of `load_model`, without the options
    that were not given.
    """

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        options = {name: given.pop(name, None) for name in _LOADING_OPTIONS}
        loading = {
            name: _parsed_option(name, each)
            for name, each in options.items()
            if each not in (None, False)
        }
        command(**given, loading=loading)

    parameters: list[inspect.Parameter] = []
    for each in inspect.signature(command).parameters.values():
        if each.name != "loading":
            parameters.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        if each.name == "model":
            parameters += [
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=False if name in _LOADING_SWITCHES else None,
                    annotation=annotation,
                )
                for name, annotation in _LOADING_OPTIONS.items()
            ]
    shown: Any = with_options
    shown.__signature__ = inspect.Signature(parameters)
    shown.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def _parsed_option(name: str, value: Any) -> Any:
    """Return the value of an option, read as JSON if it is an object of JSON."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise typer.BadParameter(f"--{name.replace('_', '-')} is no JSON: {error}") from None


def open_stored(store: str) -> Store:
    """Open an existing store. Raise StoreError if it does not exist."""
    with output.working("opening the store"):
        return tt.open_store(store, must_exist=True)


def open_live(store: str) -> "DatabaseStore":
    """Open an existing database. Raise StoreError for a sealed copy and where none exists."""
    from tokentape.store import DatabaseStore

    opened = open_stored(store)
    if not isinstance(opened, DatabaseStore):
        raise tt.StoreError(f"{store} is sealed: it can only be read")
    return opened


def locate_run(run: str | None, store: str) -> tuple[str | None, str]:
    """Return the run that an argument names within a store, and that store.

    The argument is the id, the beginning of an id or the name of a run in `store`; or a file,
    folder or database URL, which is the store then; or one of these with `#RUN`. A single word
    without a suffix means a file only if the store has no such run. Raise StoreError if there is
    neither a file nor a store to look for a run in.
    """
    if run is None:
        return None, store
    path, separator, of_path = run.rpartition("#")
    # A file may have a # in its name.
    if separator and not _exists(run):
        is_file = "://" in path or _exists(path)
        if is_file or (_is_path(path) and not _has_run(store, run)):
            return of_path, path
    if "://" in run:
        return None, run
    if _exists(run) and (_is_path(run) or not _has_run(store, run)):
        return None, run
    if not _is_there(store):
        raise tt.StoreError(
            f"{run!r} is neither a run nor a file: there is no file of that name, and there is no "
            f"store at {store} to look for a run in"
        )
    return run, store


def find_recording(store: Store, run: str | None, *, only: bool = False) -> tt.Recording:
    """Return the recording of a run in a store, by default the newest one.

    With `only`, the default is the only run of the store: NoSuchRunError lists several. Raise
    NoSuchRunError for an unknown run, NothingToReplayError for an empty store.
    """
    if run is not None:
        try:
            return store.recording(run)
        except UnknownRunError as error:
            raise UnknownRunError(f"{error}; there is no file of that name either") from None
    summaries = store.summaries()
    if not summaries:
        raise tt.NothingToReplayError(f"{store.where} holds no run")
    if only and len(summaries) > 1:
        raise ambiguous(
            f"{store.where} holds {len(summaries)} runs: name one with {store.where}#RUN", summaries
        )
    from tokentape.store import DatabaseStore

    newest = summaries[-1]
    # A file has to name the run; of a live store the newest run is the usual one.
    if len(summaries) > 1 and (err.is_terminal or not isinstance(store, DatabaseStore)):
        named = f"{newest.name} ({newest.run_id})"
        err.line(
            f"{store.where} holds {len(summaries)} runs: this is the newest, {named}; name another "
            f"with {store.where}#RUN"
        )
    return store.recording(newest.run_id)


def _exists(name: str) -> bool:
    try:
        return bool(name) and expand_path(name).exists()
    except (OSError, ValueError):
        return False


def _is_path(name: str) -> bool:
    """Return whether a name has a separator or a suffix, as no id has."""
    path = Path(name)
    return len(path.parts) > 1 or bool(path.suffix) or name.startswith(("~", "."))


def _is_there(store: str) -> bool:
    """Return whether a store exists, as far as a look at its file tells."""
    from tokentape.store.location import is_in_memory, parse_location
    from tokentape.store.objects.urls import ObjectUrl

    place = parse_location(store)
    if isinstance(place, ObjectUrl):
        return True
    if not isinstance(place, Path):
        if place.get_backend_name() != "sqlite" or is_in_memory(place):
            return True
        place = Path(str(place.database))
    return _exists(str(place))


def _has_run(store: str, run: str) -> bool:
    """Return whether a store exists and has a run of that id or name, or several."""
    if not _is_there(store):
        return False
    try:
        with open_stored(store) as opened:
            opened.recording(run)
    except UnknownRunError:
        return False
    except tt.NoSuchRunError:
        return True
    except tt.StoreError:
        return False
    return True


def last_seal(recording: tt.Recording) -> str | None:
    """Return the last seal of a run as it is recorded; None if nothing is sealed yet."""
    newest = RecordFilter(kinds=SEALED_KINDS, newest=1)
    return next((each.seal for each in recording.selected(newest)), None)


def select_turns(recording: tt.Recording, numbers: list[int] | None) -> SelectedEvents:
    """Return the events of some turns of a run, or of all of them.

    Raise TokentapeError for a turn that the run does not have.
    """
    selected = SelectedEvents.read(recording, numbers or turn_numbers(recording))
    missing = sorted(set(numbers or ()) - selected.turns_found)
    if missing:
        known = turn_numbers(recording)
        have = f"it has turns {min(known)} to {max(known)}" if known else "it has none yet"
        raise tt.TokentapeError(f"run {recording.run_id} has no turn {missing[0]}: {have}")
    return selected


def load_named_model(model: str, loading: "LoadingKeywords", *, note: str = "") -> "tt.LoadedModel":
    """Load the model that a command names. Raise ModelError if it cannot be loaded.

    Mistakes in its name, and in how it is loaded, are found before torch is imported.
    """
    from tokentape.generation.models.model_names import check_loading

    with output.working(f"loading {model}{note}"):
        check_loading(model, loading)
        return tt.load_model(model, **loading)


def load_recorded_model(
    started: RunStarted, model: str | None, loading: "LoadingKeywords"
) -> "tt.LoadedModel":
    """Load the model that a command names, by default the recorded one, with the recorded settings.

    `loading` overrides how it was loaded. Raise ModelError if it cannot be loaded.
    """
    from tokentape.generation.models.model_names import check_loading, check_recorded_name
    from tokentape.generation.models.model_places import place_of_model

    name = model or started.model
    if not name:
        raise tt.ModelError("the recording does not name its model: name one with --model")
    keywords = loading if model else {"offline": True, **loading}
    try:
        with output.working(f"loading {name}"):
            if not model:
                check_recorded_name(name)
            check_loading(model or place_of_model(started), keywords)
            # It imports torch.
            from tokentape.generation.models.recorded_model import load_as_recorded

            return load_as_recorded(model or None, started, **loading)
    except tt.ModelError as error:
        if model:
            raise
        raise tt.ModelError(
            f"{error}; if it is elsewhere, name it with --model (if it was made in Python, save it "
            "with save_pretrained, and name the folder); a model that only the recording names is "
            "not downloaded"
        ) from error


def tokenizer_as_recorded(started: RunStarted) -> "PreTrainedTokenizerBase | None":
    """Return the tokenizer of a run, or None if it is missing here or differs from the recorded."""
    with output.working("loading the tokenizer"):
        return load_recorded_tokenizer(started)


def load_recorded_tokenizer(started: RunStarted) -> "PreTrainedTokenizerBase | None":
    """Return the same as `tokenizer_as_recorded`, without a spinner."""
    from tokentape.generation.fingerprints import tokenizer_sha256
    from tokentape.generation.models.loading import load_tokenizer
    from tokentape.generation.models.model_names import check_recorded_name
    from tokentape.generation.models.model_places import place_of_model

    try:
        revision = started.loading.get("revision")
        check_recorded_name(started.model)
        tokenizer = load_tokenizer(place_of_model(started), revision=revision)
    except tt.ModelError:
        return None
    return tokenizer if tokenizer_sha256(tokenizer) == started.tokenizer_sha256 else None


def turn_json(turn: Turn) -> dict[str, Any]:
    """Return a turn as `--json` prints it, with the ids and text of its reply."""
    inside = {"inside_model": turn.inside_model.as_json()}
    reply = {"reply_ids": list(turn.reply_ids), "reply_text": turn.reply_text}
    return asdict(turn) | inside | reply
