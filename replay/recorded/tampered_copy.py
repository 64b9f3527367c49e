"""A copy of a recording with one token changed, to show that replays find it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokentape.recorder import Record, Recording
from tokentape.recorder.events import TOKEN_KIND
from tokentape.recorder.record import RecordFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class TamperedCopy:
    """A recording that differs from another one in one sampled token. It is not stored."""

    recording: Recording
    turn: int
    step: int
    """The token of the turn that was changed, counted from zero."""
    token_id: int
    """The id in place of the recorded one."""


def tampered_copy(recording: Recording, *, turn: int, step: int) -> TamperedCopy | None:
    """Return a copy of a run with another token in a turn, or None if the turn has no token.

    The token is that of `step`, or the last one of a shorter turn. In its place comes the least
    likely of its recorded candidates, so that no near tie explains it; without candidates, the id
    before it. The seals stay those of the honest run.
    """
    chosen = RecordFilter(kinds=frozenset((TOKEN_KIND,)), first_turn=turn, last_turn=turn)
    steps = {
        each.body["step"]: each
        for each in recording.selected(chosen)
        if isinstance(each.body, Mapping)
    }
    if not steps:
        return None
    changed = steps[min(step, max(steps))]
    assert isinstance(changed.body, Mapping)
    body = {**changed.body, "token_id": _another(changed.body)}

    def records() -> Iterator[Record]:
        for record in recording.records():
            yield replace(record, body=body) if record.seq == changed.seq else record

    copy = replace(recording, read=records, select=None, read_sampled_ids=None)
    return TamperedCopy(
        recording=copy, turn=turn, step=body["step"], token_id=int(body["token_id"])
    )


def _another(body: Mapping[str, Any]) -> int:
    """Return the id to put in place of the one of a token."""
    token_id = int(body["token_id"])
    others = [int(each) for each in body["top_ids"] if int(each) != token_id]
    return others[-1] if others else abs(token_id - 1)
