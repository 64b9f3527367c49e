"""The runs of one attempt at a sample, or of all requests outside of evaluations."""

import threading
from collections.abc import Mapping
from typing import Any

import anyio.to_thread
from inspect_ai.util import store as sample_store

from tokentape.generation.completions.chat_request import ChatRequest
from tokentape.generation.completions.completion import Completion, Continuation
from tokentape.generation.completions.conversations import Conversations
from tokentape.generation.run_settings import InvestigationKeywords
from tokentape.inspect_provider.evaluated_sample import EvaluatedSample
from tokentape.inspect_provider.pending_turn import PendingTurn
from tokentape.inspect_provider.repetitions import Repetitions
from tokentape.inspect_provider.shared_model import SharedModel
from tokentape.store import DatabaseStore

RUN_IDS = "tokentape_runs"
"""The name, in the store of a logged sample, of the ids of its runs."""


class SampleRuns:
    """The runs of a sample. Closing them ends each as finished."""

    def __init__(
        self,
        model: SharedModel,
        store: DatabaseStore,
        sample: EvaluatedSample | None,
        settings: InvestigationKeywords,
    ) -> None:
        self.sample = sample
        self.repetitions = Repetitions()
        self._model = model
        self._store = store
        self._conversations = Conversations(model.lm, store, **settings)
        self._pending: set[PendingTurn] = set()
        self._lock = threading.Lock()

    def request_facts(self) -> Mapping[str, Any]:
        """Return the fields of a request that say which sample it is for."""
        if self.sample is None:
            return {}
        return {
            "session": self.sample.session,
            "name": self.sample.name,
            "metadata": self.sample.to_metadata(),
        }

    async def complete(self, request: ChatRequest, *, batch_size: int) -> Completion:
        """Return the reply to a request. Link the sample and a new run with each other."""
        turn = PendingTurn(self._conversations, request)
        with self._lock:
            self._pending = {each for each in self._pending if not each.is_done} | {turn}
        completion = await turn.run_in(self._model, batch_size=batch_size)
        if self.sample is not None and completion.continuation is not Continuation.CONTINUED:
            note = self.sample.note
            await anyio.to_thread.run_sync(self._store.note, completion.run_id, note)
            logged = sample_store()
            logged.set(RUN_IDS, [*logged.get(RUN_IDS, []), completion.run_id])
        return completion

    def close(self) -> None:
        """End the runs, after the next token of a turn that Inspect has cancelled."""
        with self._lock:
            pending = list(self._pending)
        for turn in pending:
            turn.abandon()
        for turn in pending:
            turn.wait()
        self._conversations.close()
