"""The model of a playback in the mode `passthrough`, which continues where a request differs.

torch is imported when the model is asked first.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokentape.recorder import Recorder
from tokentape.recorder.atomic_write import atomic_write
from tokentape.recorder.chat_messages import SYSTEM, USER, ChatMessage
from tokentape.replay.playback.completions import completion, tools_of
from tokentape.replay.playback.played_generator import generation_of
from tokentape.replay.playback.played_reply import PlayedReply
from tokentape.replay.playback.recorded_turns import RecordedRun
from tokentape.replay.playback.run_request import RunRequest
from tokentape.replay.playback.transcripts import reply_of, transcript
from tokentape.replay.results.errors import ReplayError
from tokentape.store.errors import StoreError

if TYPE_CHECKING:
    from tokentape.generation import Investigation, LoadedModel, ManualGenerator
    from tokentape.generation.completions.conversations import Conversations
    from tokentape.store import DatabaseStore, ParquetStore

GivenModel = Any
"""A loaded model, a function that loads one, the name of one, or None for the recorded one."""


class LiveConversation:
    """A conversation with the model, recorded, whose replies have the form of played ones."""

    def __init__(self, investigation: "Investigation", store: "DatabaseStore") -> None:
        self._investigation = investigation
        self._store = store

    @property
    def run_id(self) -> str:
        """The id of the run that is recorded."""
        return self._investigation.run_id

    def chat(self, message: str, **settings: Any) -> PlayedReply:
        """Ask the model, and return the turn as it was recorded."""
        turn = self._investigation.chat(message, **settings).turn
        recorded = self.recorded().turns[-1]
        assert recorded.number == turn
        return PlayedReply.of(recorded, self._store.blob)

    def recorded(self) -> RecordedRun:
        """Return the run so far."""
        return RecordedRun.load(self._store.recording(self.run_id))

    def finish(self) -> None:
        """End the run."""
        self._investigation.finish()


class LiveRuns:
    """The runs that the model records for a playback, in a store of their own or a given one."""

    def __init__(
        self,
        model: GivenModel,
        source: "DatabaseStore | ParquetStore",
        runs: Sequence[RecordedRun],
        store: "DatabaseStore | None",
    ) -> None:
        self._model = model
        self._source = source
        self._runs = runs
        self._given_store = store
        self._store: DatabaseStore | None = None
        self._conversations: list[LiveConversation] = []
        self._generator: ManualGenerator | None = None
        self._recorder: Recorder | None = None
        self._system_prompt: str | None = None
        self._endpoint: Conversations | None = None
        self._replaced: set[str] = set()
        self.new_run_ids: list[str] = []
        """The runs that the model recorded."""

    @property
    def lm(self) -> "LoadedModel":
        """The model, loaded when it is needed first, with the recorded settings if it is named."""
        model = self._model
        if model is None or isinstance(model, str):
            from tokentape.generation import load_model
            from tokentape.generation.models.recorded_model import load_as_recorded

            if self._runs:
                model = load_as_recorded(model or None, self._runs[0].started)
            elif model:
                model = load_model(model)
            else:
                raise ReplayError("a new tape needs the name of a model: give model=")
        elif callable(model) and not hasattr(model, "tokenizer"):
            model = model()
        if not hasattr(model, "tokenizer"):
            raise ReplayError(f"model is a loaded model, a function or a name, not {model!r}")
        self._model = model
        return cast("LoadedModel", model)

    @property
    def store(self) -> "DatabaseStore":
        """The store of the new runs, with those of the tape in it: forks share their events."""
        if self._store is None:
            from tokentape.store import import_runs, open_store, pack
            from tokentape.store.live.database import DatabaseStore

            opened = open_store("sqlite://") if self._given_store is None else self._given_store
            if not isinstance(opened, DatabaseStore):
                raise StoreError("the store of new recordings is a live one: give a database")
            if self._runs:
                with tempfile.TemporaryDirectory() as folder:
                    recordings = [each.recording for each in self._runs]
                    import_runs(pack(recordings, self._source, Path(folder) / "runs.tape"), opened)
            self._store = opened
        return self._store

    def continue_run(
        self, run: RecordedRun | None, at_turn: int, request: RunRequest
    ) -> LiveConversation:
        """Return a conversation that shares the turns of a recorded run before this one.

        Before the first turn, and without a run, it is a new one with the application's keywords.
        """
        from tokentape.generation import Investigation
        from tokentape.generation.run_settings import FORKABLE, OF_THE_PROCESS

        tools = request.tools.interface if request.tools.names else None
        if run is None or not run.turns or at_turn <= run.turns[0].number:
            if run is not None:
                self._replaced.add(run.run_id)
            begun = Investigation(
                self.lm,
                store=self.store,
                name=request.name or ("playback" if run is None else run.started.name),
                system_prompt=request.system_prompt,
                tools=tools,
                seed=request.seed,
                redactor=request.redactor,
                **request.settings,
            )
        else:
            may_change = {*FORKABLE, *OF_THE_PROCESS}
            settings = {name: each for name, each in request.settings.items() if name in may_change}
            begun = Investigation.fork(
                self.store,
                run.run_id,
                self.lm,
                at_turn=at_turn,
                tools=tools,
                seed=request.seed,
                **settings,
            )
        return self._add(begun)

    def _add(self, investigation: "Investigation") -> LiveConversation:
        investigation.start()
        conversation = LiveConversation(investigation, self.store)
        self._conversations.append(conversation)
        self.new_run_ids.append(conversation.run_id)
        return conversation

    def complete(
        self,
        messages: Sequence[ChatMessage],
        settings: Mapping[str, Any],
        request: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Answer a request with the model.

        A user's message without tools continues the recorded run that has the messages before it,
        with its exact tokens. Other requests continue the runs that they began here.
        """
        is_plain = bool(messages) and messages[-1].role == USER and not request.get("tools")
        conversation = self._conversation_of(messages[:-1]) if is_plain else None
        if conversation is None:
            return self._complete_as_endpoint(messages, settings, request)
        conversation.chat(messages[-1].content, **{"max_new_tokens": 100, **settings})
        run = conversation.recorded()
        turn = run.turns[-1]
        return completion(run, turn, turn.rounds[-1], request)

    def _complete_as_endpoint(
        self,
        messages: Sequence[ChatMessage],
        settings: Mapping[str, Any],
        request: Mapping[str, Any],
    ) -> dict[str, Any]:
        from tokentape.generation.completions.chat_request import ChatRequest
        from tokentape.generation.completions.conversations import Conversations

        if self._endpoint is None:
            self._endpoint = Conversations(self.lm, self.store)
        chosen = {"max_new_tokens": 100, **settings}
        seed = chosen.pop("seed", None)
        tools = tools_of(request.get("tools"))
        replied = self._endpoint.complete(
            ChatRequest(messages=tuple(messages), tools=tools, settings=chosen, seed=seed)
        )
        if replied.run_id not in self.new_run_ids:
            self.new_run_ids.append(replied.run_id)
        run = RecordedRun.load(self.store.recording(replied.run_id))
        turn = next(each for each in run.turns if each.number == replied.turn)
        return completion(run, turn, turn.rounds[-1], request, said=replied.message)

    def _conversation_of(self, before: Sequence[ChatMessage]) -> LiveConversation | None:
        """Return the live conversation with these messages, or one forked from a recorded run."""
        said = [(each.role, each.content) for each in before]
        if all(role == SYSTEM for role, _ in said):
            return None
        for live in self._conversations:
            run = live.recorded()
            if run.turns and _said_after(run, len(run.turns)) == said:
                return live
        for run in self._runs:
            for index, turn in enumerate(run.turns, start=1):
                if not run.started.tools and _said_after(run, index) == said:
                    return self.continue_run(run, turn.number + 1, RunRequest())
        return None

    def generate(
        self, system_prompt: str, prompt: str | Sequence[int], settings: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the model's reply to a prompt, recorded in a run of its own."""
        from tokentape.generation import ManualGenerator

        if self._generator is None:
            self._recorder = Recorder(self.store)
            name = self._runs[0].started.name if self._runs else "playback"
            lm = self.lm
            self._generator = ManualGenerator(
                lm.model,
                lm.tokenizer,
                self._recorder,
                name=name,
                model_name=lm.name,
                identity=lm.identity,
            )
            self.new_run_ids.append(self._recorder.run_id)
        if system_prompt and system_prompt != self._system_prompt:
            self._generator.cache_system_prompt(system_prompt)
            self._system_prompt = system_prompt
        self._generator.generate(prompt, **settings)
        assert self._recorder is not None
        run = RecordedRun.load(self.store.recording(self._recorder.run_id))
        turn = run.turns[-1]
        return generation_of((run, turn, turn.rounds[-1]))

    def finish(self) -> None:
        """End all runs that are still active."""
        for each in self._conversations:
            each.finish()
        if self._endpoint is not None:
            self._endpoint.close()
        if self._recorder is not None:
            self._recorder.finish()

    def save(self, path: Path, *, replace: bool) -> Path:
        """Write a tape of the runs that an application now asks for; see `Playback.save`."""
        from tokentape.store import pack

        self.finish()
        kept = [each.run_id for each in self._runs if each.run_id not in self._replaced]
        recordings = [self.store.recording(each) for each in (*kept, *self.new_run_ids)]
        if not replace:
            return pack(recordings, self.store, path)
        try:
            with tempfile.TemporaryDirectory(prefix=".updating-", dir=path.parent) as folder:
                new_tape = pack(recordings, self.store, Path(folder) / path.name)
                with atomic_write(path, durable=True) as tmp_path:
                    shutil.copyfile(new_tape, tmp_path)
        except OSError as error:
            raise StoreError(f"cannot update {path}: {error}") from None
        return path

    def close(self) -> None:
        """End the runs, and close the store unless it was given."""
        self.finish()
        if self._store is not None and self._given_store is None:
            self._store.close()


def _said_after(run: RecordedRun, turns: int) -> list[tuple[str, str]]:
    """Return roles and contents of a conversation after so many of its turns."""
    turn = run.turns[turns - 1]
    last = turn.rounds[-1]
    messages = [*transcript(run, last), reply_of(turn, last)]
    return [(each.role, each.content) for each in messages]
