"""Events that are valid one by one, and contradict each other: read, or refused by tokentape."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import tokentape as tt
from tests.replay.four_turns import FOUR
from tests.replay.made_talk import recorded, talk_events
from tests.replay.test_diff_laws import other_values
from tokentape.recorder.events import CacheCleared, Event

READERS: tuple[Callable[[tt.Recording], Any], ...] = (
    tt.rebuild,
    lambda recording: list(recording.turns()),
    lambda recording: recording.conversation(),
    lambda recording: recording.messages(),
    lambda recording: tt.diff(recording, recording),
)


def hostile_values(value: Any) -> Iterator[Any]:
    yield from other_values(value)
    if isinstance(value, int) and not isinstance(value, bool):
        yield from (-1, 0, 10**9, 2**62)
    elif isinstance(value, str):
        yield ""
    elif isinstance(value, tuple):
        yield from ((), value * 50)
    elif isinstance(value, dict):
        yield {}


def altered_events(events: list[Event]) -> Iterator[list[Event]]:
    """Yield the events without one, with one twice, with two exchanged, and with another value."""
    for place, event in enumerate(events):
        before, after = events[:place], events[place + 1 :]
        yield [*before, *after]
        yield [*before, event, event, *after]
        if before:
            yield [*before[:-1], event, before[-1], *after]
        for field in dataclasses.fields(event):
            for other in hostile_values(getattr(event, field.name)):
                with suppress(ValueError, TypeError):  # no such event can be made
                    yield [*before, dataclasses.replace(event, **{field.name: other}), *after]


def test_no_contradiction_of_events_ends_in_another_error_than_ours() -> None:
    events = [*talk_events(FOUR[:1], ended=False), CacheCleared(reason="asked", freed_bytes=1)]
    read = refused = 0
    for altered in altered_events(events):
        for reader in READERS:
            try:
                reader(recorded(altered))
                read += 1
            except tt.TokentapeError:
                refused += 1

    assert read > 500
    assert refused > 50
