"""A run of any length: the workload repeated, with new tokens in each repetition."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

from benchmarks.store.synthetic_tokens import SyntheticTokens
from benchmarks.store.workload import TURN_TOKENS, Workload
from tokentape.recorder.events import (
    CacheDecided,
    Event,
    PrefillCompleted,
    RunStarted,
    SystemPromptCached,
    TokenSampled,
    TurnFinished,
    TurnStarted,
)


class LongRun:
    """A generator of the events of a long run.

    Each pass over the workload continues the conversation of the previous pass. Token ids are new
    in each pass; the texts of the replies stay those of the first pass.
    """

    def __init__(self, workload: Workload, source: SyntheticTokens) -> None:
        events = [event for _, event in workload.events]
        self._preamble = [each for each in events if isinstance(each, _PREAMBLE)]
        self._pass = [each for each in events if not isinstance(each, (*_PREAMBLE, TokenSampled))]
        self._turns = len(workload.exchanges)
        self._tokens, self._chars = _growth(events)
        self._source = source

    def events(self, rows: int, *, turn_tokens: int = TURN_TOKENS) -> Iterator[Event]:
        """Yield the events of a run with `rows` tokens, without its end."""
        yield from self._preamble
        for number in count():
            prompt_tokens = new = 0
            for event in self._pass:
                if isinstance(event, TurnFinished):
                    event = replace(event, generated_tokens=new)
                moved = self._moved(event, number)
                yield moved
                if isinstance(moved, CacheDecided):
                    prompt_tokens = moved.prompt_tokens
                elif isinstance(moved, PrefillCompleted):
                    new = min(rows, turn_tokens)
                    yield from self._source.reply(
                        turn=moved.turn, prompt_tokens=prompt_tokens, count=new
                    )
                    rows -= new
                elif isinstance(moved, TurnFinished) and rows <= 0:
                    return

    def _moved(self, event: Event, number: int) -> Event:
        """Return the event with the turn and positions that it has in a later pass."""
        turns, tokens, chars = (number * each for each in (self._turns, self._tokens, self._chars))
        match event:
            case TurnStarted():
                return replace(
                    event,
                    turn=event.turn + turns,
                    prompt_tokens=event.prompt_tokens + tokens,
                    kept_tokens=event.kept_tokens + tokens,
                    kept_chars=event.kept_chars + chars,
                )
            case CacheDecided():
                return replace(
                    event,
                    turn=event.turn + turns,
                    prompt_tokens=event.prompt_tokens + tokens,
                    reused_tokens=event.reused_tokens + tokens,
                    cached_tokens=event.cached_tokens + tokens,
                )
            case PrefillCompleted() | TurnFinished():
                return replace(event, turn=event.turn + turns)
            case _:
                return event


_PREAMBLE = (RunStarted, SystemPromptCached)


def _growth(events: list[Event]) -> tuple[int, int]:
    """Return how many tokens and characters a pass adds to the conversation."""

    def last(kind: type) -> Any:
        return next(each for each in reversed(events) if isinstance(each, kind))

    system, started, finished = last(SystemPromptCached), last(TurnStarted), last(TurnFinished)
    tokens = started.prompt_tokens + finished.generated_tokens - len(system.ids)
    chars = started.kept_chars + len(started.added_text) - len(system.text)
    return tokens, chars + len(finished.text) + len(finished.stop_text)
