"""The tokens of a turn while it is generated, for a client that reads along."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation.history.text_stream import TextStream
from tokentape.generation.investigation.investigation import RunStore
from tokentape.recorder import Envelope, Record, Recording
from tokentape.recorder.events import TokenSampled, TurnStarted
from tokentape.recorder.projections import RunSummary

TokenListener = Callable[[TokenSampled, str], None]
"""Called with each recorded token and the text that is final with it."""


class TokenTap:
    """A store of one run that also keeps the tokens of the turn in progress."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self.tokens: list[TokenSampled] = []
        self._ends: frozenset[int] = frozenset()
        """The tokens that may end the turn in progress."""

    def append(
        self,
        envelope: Envelope,
        record: Record,
        *,
        durable: bool,
        summary: RunSummary | None,
    ) -> None:
        """Store an event; see `recorder.EventLog`."""
        self._store.append(envelope, record, durable=durable, summary=summary)
        if isinstance(envelope.event, TokenSampled):
            self.tokens.append(envelope.event)
        elif isinstance(envelope.event, TurnStarted):
            ends: Any = envelope.event.sampling.get("eos_token_id")
            self._ends = frozenset(ends if isinstance(ends, list | tuple) else [ends])

    def put_blob(self, sha256: str, payload: bytes) -> None:
        self._store.put_blob(sha256, payload)

    def recording(self, run_id: str) -> Recording:
        return self._store.recording(run_id)

    def listen(
        self,
        listener: TokenListener,
        tokenizer: PreTrainedTokenizerBase,
        prompt_ids: Callable[[], tuple[int, ...]],
    ) -> Callable[[int, torch.Tensor], None]:
        """Return a callback for a turn that passes its tokens on to the listener.

        `prompt_ids` returns the ids of the prompt once the turn has begun.
        """
        stream: list[TextStream] = []

        def on_token(token_id: int, logits: torch.Tensor) -> None:
            if not stream:
                stream.append(TextStream(tokenizer, prompt_ids(), ends=self._ends))
            listener(self.tokens[-1], stream[0].add(token_id))

        return on_token
