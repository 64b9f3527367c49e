"""One sequence's step: from the logits of its last position to a token, recorded."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.callbacks import GenerationState, StateObserver, TokenCallback
from tokentape.generation.engine.backend import LogitsBackend
from tokentape.generation.engine.sampling import Draw, Measures, check_finite, draw, measure
from tokentape.generation.engine.turn_recorder import TurnRecorder
from tokentape.generation.hooks.model_use import between_forwards
from tokentape.recorder.events import StopReason

Steps = list[tuple[torch.Tensor, torch.Tensor]]
"""The raw logits and the processed scores of each step, both float32 of shape (1, vocab)."""


@dataclass(slots=True, kw_only=True)
class TokenSequence:
    """A prompt and its growing reply, with everything that chooses and records the next token.

    `step` does what an iteration of `GenerationMixin._sample` does after its forward. Where the
    logits come from is the caller's business: of many sequences, each is given its own row.
    """

    ids: torch.Tensor
    """Prompt and reply, int64 of shape (1, tokens)."""
    prompt_tokens: int
    processors: LogitsProcessorList
    criteria: StoppingCriteriaList
    generator: torch.Generator | None
    """Draws the tokens; None takes the likeliest token each time."""
    top_logprobs: int
    """How many of the likeliest tokens are recorded of each step."""
    events: TurnRecorder
    cache: Callable[[], Cache]
    """Returns the live cache, for `observer`."""
    token_ids: list[int] = field(default_factory=list)
    """The reply of this round; a resumed round begins with the tokens that it has already."""
    forced_ids: Sequence[int] = ()
    """The tokens that come first, chosen by the experimenter."""
    callback: TokenCallback | None = None
    observer: StateObserver | None = None
    hidden_states: Callable[[], Mapping[str, torch.Tensor]] = dict
    """Returns the outputs of layers at the newest position, for `observer`."""
    pauses: Callable[[int], bool] | None = None
    """Called with each token; True stops the reply for a tool call."""
    pause_reason: StopReason = StopReason.TOOL_CALL
    """The stop reason of a reply that `pauses` stops."""
    steps: Steps | None = None
    """A list to append the numbers of each step to, if they are to be returned."""
    _begins_at: int = field(init=False)
    """The length of `ids` before the first step."""

    def __post_init__(self) -> None:
        self._begins_at = int(self.ids.shape[1])

    def step(self, logits: torch.Tensor, *, began: float) -> str | None:
        """Choose and record the next token. Return why the reply stops with it, or None.

        `logits` are those of the last position, float32 of shape (1, vocab); `began` is the
        `time.perf_counter` before their forward.
        """
        drawn = self.choose(logits)
        stops = hf.stop_flags(self.criteria, self.ids)
        measures = measure(logits, drawn, stops, top_logprobs=self.top_logprobs)
        check_finite(measures)
        return self.accept(logits, measures, began=began)

    def choose(self, logits: torch.Tensor) -> Draw:
        """Draw the next token and append it to `ids`. Nothing leaves the device."""
        scores = hf.process(self.processors, self.ids, logits)
        if self.steps is not None:
            self.steps.append((logits, scores))
        drawn = draw(logits, scores, generator=self.generator, forced=self._forced())
        self.ids = torch.cat([self.ids, drawn.token[:, None]], dim=-1)
        return drawn

    def _forced(self) -> torch.Tensor | None:
        """Return the next token if the experimenter chose it, int64 of shape (1,)."""
        step = self.ids.shape[1] - self._begins_at
        if step >= len(self.forced_ids):
            return None
        return torch.tensor(self.forced_ids[step : step + 1], device=self.ids.device)

    def accept(self, logits: torch.Tensor, measures: Measures, *, began: float) -> str | None:
        """Record the token that was drawn, and call the callbacks. Return as `step` does."""
        step = len(self.token_ids)
        self.events.token_sampled(
            measures, step=step, position=self.prompt_tokens + step, began=began
        )
        self.token_ids.append(measures.token_id)
        stop_reason = hf.stop_reason_of(self.criteria, measures.stops)
        if stop_reason is None and self.pauses is not None and self.pauses(measures.token_id):
            stop_reason = self.pause_reason
        if self.callback is not None:
            self.callback(measures.token_id, logits[0])
        if self.observer is not None:
            self.observer(self._state(logits, measures, finished=stop_reason is not None))
        return stop_reason

    def _state(
        self, logits: torch.Tensor, measures: Measures, *, finished: bool
    ) -> GenerationState:
        return GenerationState(
            input_ids=self.ids,
            past_key_values=self.cache(),
            attention_mask=torch.ones_like(self.ids),
            generated_tokens=tuple(self.token_ids),
            finished=finished,
            step=self.events.first_step + len(self.token_ids) - 1,
            logits=logits[0],
            entropy=measures.entropy,
            hidden_states=self.hidden_states(),
        )


def decode_reply(
    backend: LogitsBackend,
    sequence: TokenSequence,
    logits: torch.Tensor,
    *,
    between_tokens: Callable[[], None] | None = None,
) -> str:
    """Step one sequence, from the logits after its prompt, until it stops. Return why it stopped.

    The last token is not forwarded. `between_tokens` is called after each token but the last, when
    everything of it is recorded; it may raise to end the turn there.
    """
    began = time.perf_counter()
    while True:
        # Processors and callbacks may forward the model: not as a part of this sequence.
        with between_forwards():
            stop_reason = sequence.step(logits, began=began)
            if stop_reason is not None:
                return stop_reason
            if between_tokens is not None:
                between_tokens()
        began = time.perf_counter()
        logits = backend.forward(sequence.ids)
