"""The events of one turn, emitted in one place."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tokentape.generation.cache import Eviction
from tokentape.generation.cache.key import recorded_key
from tokentape.generation.cache.reuse import Reuse
from tokentape.generation.engine.sampling import Measures, generator_sha256
from tokentape.generation.history.decoding import decode_reply
from tokentape.generation.history.prompt import Prompt
from tokentape.generation.history.spelling import spell_tokens
from tokentape.recorder import Recorder, TokentapeError
from tokentape.recorder.clock import elapsed_us
from tokentape.recorder.events import (
    CacheDecided,
    CacheEvicted,
    Event,
    ForwardsShared,
    MessageAdded,
    PrefillCompleted,
    StopReason,
    TokenSampled,
    TokensSpelled,
    TurnFinished,
    TurnStarted,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecorder:
    """The recorder of one turn, or of one of its rounds; without a `recorder` it does nothing.

    Call `started`, `cache_decided`, `prefill_completed`, `token_sampled` for each token, and
    `finished`, in this order; `record` takes the other events of a turn.
    """

    recorder: Recorder | None
    turn: int
    first_step: int = 0
    """Tokens of the turn that were sampled in earlier rounds."""
    continued_tokens: int = 0
    """The first tokens of this round that a parent has recorded; see `RoundPlan`."""
    continued_text: str = ""
    _forwards: list[ForwardsShared] = field(default_factory=list)
    """The newest of its kind that was recorded."""

    def record(self, event: Event) -> None:
        if self.recorder is not None:
            self.recorder.record(event)

    def record_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self.record(event)

    def started(
        self,
        prompt: Prompt,
        *,
        seed: int | None,
        sampling: Mapping[str, Any],
        own_settings: Mapping[str, Any],
        unreplayable: tuple[str, ...],
        forced_ids: tuple[int, ...] = (),
    ) -> None:
        """Record the new messages of the prompt, and how the tokens of its reply are chosen.

        Of a continued round, the prompt has the tokens that it continues.
        """
        for event in prompt.events(self.turn):
            # A later round knows its turn: that has begun.
            within = self.first_step > 0 and isinstance(event, MessageAdded)
            self.record(replace(event, turn=self.turn) if within else event)
        self.record(
            TurnStarted(
                turn=self.turn,
                prompt_tokens=len(prompt.ids),
                kept_tokens=prompt.kept_tokens,
                kept_chars=prompt.kept_chars,
                added_ids=prompt.added_ids,
                added_text=prompt.added_text,
                history_reason=prompt.history_reason,
                seed=seed,
                sampling=sampling,
                own_settings=own_settings,
                unreplayable=unreplayable,
                first_step=self.first_step + self.continued_tokens,
                forced_ids=forced_ids,
                continued_tokens=self.continued_tokens,
            )
        )

    def cache_decided(
        self, reuse: Reuse, *, prompt_tokens: int, key: Mapping[str, str]
    ) -> CacheDecided:
        """Record how much of the prompt is reused, under which key. Return the event."""
        decided = CacheDecided(
            turn=self.turn,
            prompt_tokens=prompt_tokens,
            computed_tokens=prompt_tokens - reuse.reused_tokens,
            cropped_tokens=reuse.cropped_tokens,
            key=recorded_key(key),
            **asdict(reuse),
        )
        self.record(decided)
        return decided

    def prefill_completed(
        self, chunks: tuple[int, ...], *, began: float, kv_bytes: int, peak_bytes: int
    ) -> None:
        """Record the forwards of the prompt; `began` is a reading of `time.perf_counter`."""
        self.record(
            PrefillCompleted(
                turn=self.turn,
                chunks=chunks,
                duration_us=elapsed_us(began),
                kv_bytes=kv_bytes,
                peak_bytes=peak_bytes,
            )
        )

    def token_sampled(self, measures: Measures, *, step: int, position: int, began: float) -> None:
        """Record a token; `step` counts from the first token of this round."""
        if self.recorder is None:
            return
        self.recorder.record(
            TokenSampled(
                turn=self.turn,
                step=self.first_step + step,
                position=position,
                token_id=measures.token_id,
                logprob=measures.logprob,
                logprob_processed=measures.logprob_processed,
                entropy=measures.entropy,
                top_gap=measures.top_gap,
                duration_us=elapsed_us(began),
                top_ids=measures.top_ids,
                top_logprobs=measures.top_logprobs,
            )
        )

    def forwarded(self, *, rows: int, row: int, obstacle: str, step: int) -> None:
        """Record with what the sequence was forwarded for its next token, if that has changed.

        `step` counts as in `token_sampled`. The prefill forwards each sequence alone.
        """
        now = ForwardsShared(
            turn=self.turn, step=self.first_step + step, rows=rows, row=row, obstacle=obstacle
        )
        before = self._forwards[-1] if self._forwards else ForwardsShared(turn=self.turn, step=0)
        if (now.rows, now.row, now.obstacle) != (before.rows, before.row, before.obstacle):
            self._forwards[:] = [now]
            self.record(now)

    def evicted(self, evictions: Iterable[Eviction]) -> None:
        """Record what the cache gave up to stay within its budget."""
        self.record_all(CacheEvicted(**asdict(each)) for each in evictions)

    @contextmanager
    def spelling_tokens(self, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[None]:
        """Record the texts of the tokens so far if the block raises, as a callback may."""
        try:
            yield
        except BaseException as error:
            try:
                self._spell_tokens(tokenizer)
            except TokentapeError as another:
                # The user must see the first error.
                error.add_note(f"and the texts of the tokens were not recorded: {another}")
            raise

    def _spell_tokens(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Record the texts of the ids that the run has not spelled yet, if there are any."""
        if tokenizer is None or self.recorder is None or not self.recorder.is_active:
            return
        if ids := self.recorder.unspelled_ids():
            self.record(TokensSpelled(turn=self.turn, texts=spell_tokens(tokenizer, ids)))

    def finished(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt_ids: Sequence[int],
        token_ids: Sequence[int],
        *,
        stop_reason: str,
        generator: torch.Generator | None,
        began: float,
    ) -> TurnFinished:
        """Record the texts of its tokens, and the reply.

        Return the event with the text of the whole round.
        """
        self._spell_tokens(tokenizer)
        whole = finished_turn(
            tokenizer,
            prompt_ids,
            token_ids,
            turn=self.turn,
            stop_reason=stop_reason,
            generator=generator,
            duration_us=elapsed_us(began),
        )
        tokens = len(token_ids) - self.continued_tokens
        text = whole.text.removeprefix(self.continued_text)
        self.record(replace(whole, text=text, generated_tokens=tokens))
        return replace(whole, text=self.continued_text + text)


def finished_turn(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    *,
    turn: int,
    stop_reason: str,
    generator: torch.Generator | None,
    duration_us: int,
) -> TurnFinished:
    """Return the event of a finished reply, its text apart from that of the end-of-sequence token.

    `generator` is the one that the tokens were drawn with; its state goes into the event as a hash.
    """
    ended = stop_reason == StopReason.EOS
    text, stop_text = decode_reply(tokenizer, prompt_ids, token_ids, ended=ended)
    return TurnFinished(
        turn=turn,
        stop_reason=stop_reason,
        generated_tokens=len(token_ids),
        text=text,
        stop_text=stop_text,
        generator_sha256="" if generator is None else generator_sha256(generator),
        duration_us=duration_us,
    )
