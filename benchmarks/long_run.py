"""A run of any length: the conversation again and again, with tokens of its own each time."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

from benchmarks.token_draws import TokenDraws
from benchmarks.workload import TURN_TOKENS, Workload
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
    """Every pass goes on behind the last one; the texts of replies are those of the first pass."""

    def __init__(self, workload: Workload, draws: TokenDraws) -> None:
        events = [event for _, event in workload.events]
        self._beginning = [each for each in events if isinstance(each, _BEGINNING)]
        self._pass = [each for each in events if not isinstance(each, (*_BEGINNING, TokenSampled))]
        self._turns = len(workload.exchanges)
        self._tokens, self._chars = _growth(events)
        self._draws = draws

    def events(self, rows: int, *, turn_tokens: int = TURN_TOKENS) -> Iterator[Event]:
        """A run with that many tokens, but its end."""
        yield from self._beginning
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
                    yield from self._draws.reply(
                        turn=moved.turn, prompt_tokens=prompt_tokens, count=new
                    )
                    rows -= new
                elif isinstance(moved, TurnFinished) and rows <= 0:
                    return

    def _moved(self, event: Event, number: int) -> Event:
        """The event as a later pass has it."""
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


_BEGINNING = (RunStarted, SystemPromptCached)


def _growth(events: list[Event]) -> tuple[int, int]:
    """The tokens and characters that a pass adds to the stream."""

    def last(kind: type) -> Any:
        return next(each for each in reversed(events) if isinstance(each, kind))

    system, started, finished = last(SystemPromptCached), last(TurnStarted), last(TurnFinished)
    tokens = started.prompt_tokens + finished.generated_tokens - len(system.ids)
    chars = started.kept_chars + len(started.added_text) - len(system.text)
    return tokens, chars + len(finished.text) + len(finished.stop_text)
