"""A tape that plays the model: recorded replies for an application's tests."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tokentape.recorder import Redactor
from tokentape.recorder.events.run import IMPORTED
from tokentape.recorder.paths import expand_path
from tokentape.recorder.short_forms import counted, short_repr
from tokentape.replay.playback.chat_endpoint import PlaybackRequest, answer
from tokentape.replay.playback.live_runs import LiveRuns
from tokentape.replay.playback.played_generator import PlayedGenerator
from tokentape.replay.playback.played_run import PlayedRun
from tokentape.replay.playback.player import PlaybackMode, Player, check_mode
from tokentape.replay.playback.recorded_turns import RecordedRun
from tokentape.replay.playback.run_request import RunRequest
from tokentape.replay.playback.system_prompt import GivenTools
from tokentape.replay.results.errors import NothingToReplayError, ReplayError
from tokentape.store.sealed.reader import ParquetStore
from tokentape.store.sealed.tape import is_zip

if TYPE_CHECKING:
    from tokentape.generation import LoadedModel, ToolInterface
    from tokentape.store import DatabaseStore


class Playback:
    """The replies of a tape, for an application that would ask a model; `tt.playback` makes it.

    Give the application one of these in place of what it talks to: `investigation` in place of
    `tt.Investigation`, `generator` of `tt.ManualGenerator`, `complete` of a client's
    `chat.completions.create`. Used as a context manager, it is closed at the end.

    Example:
        >>> import tokentape as tt
        >>> tape = tt.pack([store.recording(run_id)], store, tmp_path / "run.tape")
        >>> with tt.playback(tape) as played:
        ...     unused = played.unused_turns()
        >>> [turn for _, turn in unused]
        [1, 2, 3]
    """

    def __init__(
        self,
        source: "DatabaseStore | ParquetStore",
        runs: Sequence[RecordedRun],
        *,
        tape: str,
        mode: PlaybackMode,
        rerun_tools: bool,
        model: "LoadedModel | Callable[[], LoadedModel] | str | None",
        store: "DatabaseStore | None",
    ) -> None:
        self._source = source
        self._path = Path(tape) if tape else None
        self._rerun_tools = rerun_tools
        self._where = tape or source.where
        self._player = Player(runs, self._where, mode)
        self._live = LiveRuns(model, source, runs, store)
        self._generator: PlayedGenerator | None = None

    def __repr__(self) -> str:
        runs = counted(len(self._player.runs), "run")
        return short_repr(self, f"of {runs} in", self._where, f"({self._player.mode})")

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The ids of the runs that are played, the oldest first."""
        return tuple(each.run_id for each in self._player.runs)

    @property
    def new_run_ids(self) -> tuple[str, ...]:
        """The ids of the runs that the model recorded, in the mode `passthrough`."""
        return tuple(self._live.new_run_ids)

    @property
    def store(self) -> "DatabaseStore":
        """The live store of the new runs, which has those of the tape, too."""
        return self._live.store

    def investigation(
        self,
        lm: object = None,
        *,
        store: object = None,
        name: str = "",
        system_prompt: str = "",
        tools: "ToolInterface | Sequence[Callable[..., Any]] | None" = None,
        seed: int = 0,
        redactor: Redactor | None = None,
        **settings: Any,
    ) -> PlayedRun:
        """Return the next recorded run, with the face of the `tt.Investigation` that it was.

        It takes the arguments of `tt.Investigation`; `lm` and `store` are not used. A run of that
        `name` comes first if the tape has one. `tools` may be functions: a `ToolInterface` imports
        torch.
        """
        __tracebackhide__ = True
        request = RunRequest(
            name=name,
            system_prompt=system_prompt,
            tools=GivenTools(tools),
            seed=seed,
            redactor=redactor,
            settings=settings,
        )
        return PlayedRun(
            self._player, request, rerun_tools=self._rerun_tools, go_live=self._live.continue_run
        )

    def generator(self, *ignored: object, **settings: object) -> PlayedGenerator:
        """Return a generator that answers from the tape.

        It takes the arguments of `tt.ManualGenerator`, and uses none of them.
        """
        return PlayedGenerator(self._player, self._live.generate)

    def generate(self, prompt: str | Sequence[int], **settings: Any) -> Mapping[str, Any]:
        """Return the recorded reply to a prompt; see `ManualGenerator.generate`."""
        __tracebackhide__ = True
        if self._generator is None:
            self._generator = self.generator()
        return self._generator.generate(prompt, **settings)

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Return a chat completion in OpenAI's form, as a dictionary.

        The answer is the first recorded round, not yet played, that had these messages, tools and
        named parameters. Its `logprobs` have the sampled tokens and the top k, unless the request
        says `logprobs=False`. Parameters that are left out are not compared.
        """
        __tracebackhide__ = True
        given = {**parameters, "tools": tools}
        request = PlaybackRequest.read(messages, tools, parameters)
        return answer(
            self._player,
            request,
            lambda said, settings: self._live.complete(said, settings, given),
        )

    def unused_turns(self) -> list[tuple[str, int]]:
        """Return the run ids and numbers of the turns that the application did not ask for."""
        return [(run.run_id, turn.number) for run, turn in self._player.unused()]

    def check_all_used(self) -> None:
        """Raise PlaybackMismatchError if the application did not ask for every recorded turn."""
        __tracebackhide__ = True
        self._player.check_all_used()

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write a tape of the recorded runs and of those that the model added, and return its path.

        Without a path, it replaces the tape that is played. A run that was begun anew, because its
        system prompt or first message changed, replaces the recorded one; a fork has it as parent.

        Raise ReplayError if the model recorded nothing, and StoreError as `tt.pack`.
        """
        if not self._live.new_run_ids:
            raise ReplayError("the model was not asked: there is nothing to save")
        if path is not None:
            return self._live.save(expand_path(path), replace=False)
        if self._path is None:
            raise ReplayError(f"{self._where} is no tape: give the path of a new one")
        return self._live.save(self._path, replace=True)

    def close(self) -> None:
        """End the runs of the model, if there are any, and close the tape."""
        self._live.close()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def playback(
    tape: str | os.PathLike[str],
    *,
    run: str | None = None,
    mode: str = "strict",
    rerun_tools: bool = False,
    model: "LoadedModel | Callable[[], LoadedModel] | str | None" = None,
    store: "DatabaseStore | None" = None,
) -> Playback:
    """Return the replies of a tape, for an application that would ask a model.

    `tape` is the path of a tape, or any store; `run` the id or name of the only run to play.
    Without it, all runs are played in their order, except the parents of forks.

    `mode` says what happens when a request of the application differs from the recorded one, in
    its system prompt, message, tool call or setting, or has no recorded turn. `strict` raises
    PlaybackMismatchError with turn, round, message and the first token that differs; `warn` warns
    and returns the recorded reply; `passthrough` asks `model` from that turn on, and records into
    `store`, or into memory, for `Playback.save`. `model` is a loaded one, a function that loads
    one, or a name; without it, the recorded model is loaded. In that mode the tape need not exist.

    The tools of the application are not run: their results are on the tape. With `rerun_tools` they
    are, and a result that differs is a changed prompt.

    Raise StoreError for a tape that cannot be read, RecordingError for a run that is damaged.

    Example:
        >>> import tokentape as tt
        >>> tape = tt.pack([store.recording(run_id)], store, tmp_path / "run.tape")
        >>> layer = {"layer_name": "model.norm.weight"}
        >>> look = tt.ToolCall(name="get_weight_statistics", arguments=layer)
        >>> tools = tt.default_tools(lm)
        >>> def ask(make_run):
        ...     with make_run(system_prompt="Be brief.", tools=tools, seed=7) as run:
        ...         return run.chat("What of the norm?", tool_calls=[look], max_new_tokens=4)
        >>> with tt.playback(tape) as played:
        ...     reply = ask(played.investigation)
        >>> reply.turn, len(reply.tokens), reply.tokens[0].logprob < 0
        (1, 4, True)
    """
    chosen = check_mode(mode)
    if chosen != "passthrough" and (model is not None or store is not None):
        given = "model" if model is not None else "store"
        raise ReplayError(f"{given} is used in the mode 'passthrough' only")
    source, path = _open(tape, must_exist=chosen != "passthrough")
    try:
        runs = _runs_of(source, run)
    except BaseException:
        source.close()
        raise
    return Playback(
        source,
        runs,
        tape="" if path is None else str(path),
        mode=chosen,
        rerun_tools=rerun_tools,
        model=model,
        store=store,
    )


def _open(
    tape: str | os.PathLike[str], *, must_exist: bool
) -> "tuple[DatabaseStore | ParquetStore, Path | None]":
    """Open a tape, or another store. Of a tape also return the path.

    `open_store` imports libraries of databases, which take as long as all the rest.
    """
    text = os.fspath(tape)
    path = None if "://" in text else expand_path(text)
    if path is not None and not path.is_dir() and is_zip(path) and (must_exist or path.exists()):
        return ParquetStore(path), path
    from tokentape.store.opening import open_store

    if path is not None and path.suffix == ".tape" and not must_exist:
        # Nothing is recorded yet.
        return open_store("sqlite://"), path
    return open_store(text, must_exist=True), None


def _runs_of(source: "DatabaseStore | ParquetStore", wanted: str | None) -> tuple[RecordedRun, ...]:
    if wanted is not None:
        recording = source.recording(wanted)
        if (imported := recording.imported()) is not None:
            raise NothingToReplayError(f"run {recording.run_id} {imported.without_tokens}")
        return (RecordedRun.load(recording),)
    found = [
        RecordedRun.load(source.recording(each.run_id))
        for each in source.summaries()
        if each.status != IMPORTED
    ]
    parents = {each.parent for each in found}
    return tuple(each for each in found if each.run_id not in parents)
