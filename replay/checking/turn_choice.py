"""The turns to replay, chosen from events alone."""

from collections.abc import Callable, Sequence
from typing import Any

from tokentape.recorder.events.turn import REDACTED
from tokentape.recorder.projections import Turn
from tokentape.recorder.selected_turns import turn_numbers
from tokentape.replay.recorded.loaded_run import LoadedRun, check_has_tokens
from tokentape.replay.results.errors import NothingToReplayError, ReplayError

ProcessorsOfTurn = Callable[[Turn], Sequence[Any]]
"""Creates instances of the user's own logits processors of a turn."""


def choose_turns(
    run: LoadedRun, numbers: Sequence[int] | None, processors: ProcessorsOfTurn | None = None
) -> list[Turn]:
    """Return the rounds with tokens of the requested turns, or of all turns.

    Raise NothingToReplayError if there are none, and ReplayError for a turn that the events do not
    fully describe, unless `processors` supplies the rest.
    """
    check_has_tokens(run)
    with_tokens = [turn for turn in run.turns_of_model if turn.tokens]
    chosen = [turn for turn in with_tokens if numbers is None or turn.number in numbers]
    missing = sorted(set(numbers or ()) - {turn.number for turn in chosen})
    shared = {turn.number for turn in run.turns}
    if missing and missing[0] in shared and len(run.turns_of_model) < len(run.turns):
        raise NothingToReplayError(
            f"turn {missing[0]} of run {run.run_id} is shared with its parent, which had another "
            "model: replay it there"
        )
    if missing:
        raise NothingToReplayError(
            f"run {run.run_id} has no turn {missing[0]} with tokens{_turns_of(run)}"
        )
    if not chosen:
        raise NothingToReplayError(f"run {run.run_id} has no token to replay{run.unfinished_note}")
    if any(REDACTED in turn.started.unreplayable for turn in chosen):
        raise NothingToReplayError(
            f"run {run.run_id} was redacted: the ids that the model saw were not recorded"
        )
    for turn in chosen:
        obstacle = replay_obstacle(turn, processors)
        if obstacle:
            raise ReplayError(obstacle)
    return chosen


def replay_obstacle(turn: Turn, processors: ProcessorsOfTurn | None = None) -> str:
    """Return why the events do not suffice to replay a turn; empty if they do."""
    supplied = {type(each).__name__ for each in processors(turn)} if processors else set()
    # A time limit only stops a turn; redacted turns are rejected because of their ids.
    known = {"max_time", REDACTED, *supplied}
    missing = [name for name in turn.started.unreplayable if name not in known]
    if not missing:
        return ""
    return f"turn {turn.number} was generated with {', '.join(missing)}, which no event describes"


def _turns_of(run: LoadedRun) -> str:
    """Return the end of a message: which turns a run has."""
    known = sorted(turn_numbers(run.recording))
    return f": it has turns {known[0]} to {known[-1]}" if known else ""
