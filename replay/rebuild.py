"""Rebuild a run from its events, without a model or a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokentape.recorder import Recording, RecordingError
from tokentape.recorder.projections import Message, Turn
from tokentape.recorder.short_forms import counted, html_table, short_repr
from tokentape.replay.recorded.loaded_run import LoadedRun, check_has_tokens, load_run
from tokentape.replay.results.errors import NothingToReplayError


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Rebuilt:
    """The exact ids and text of prompts and replies of a run, and its messages."""

    run_id: str
    turns: tuple[Turn, ...]
    messages: tuple[Message, ...]
    """All messages, or those up to the last of the chosen turns."""
    status: str = "running"
    """`running` if no event ends the run, `finished`, `failed`, `interrupted` or another reason."""
    status_text: str = "running"
    """The status, with the error of a run that failed and the signal of one that was interrupted.
    """

    def __repr__(self) -> str:
        return short_repr(
            self,
            f"run {self.run_id}:",
            f"{counted(len({each.number for each in self.turns}), 'turn')},",
            f"{counted(sum(len(each.tokens) for each in self.turns), 'token')},",
            self.status_text,
        )

    def _repr_html_(self) -> str:
        head = ("turn", "prompt tokens", "tokens", "stopped by", "message", "reply")
        rows = [
            (
                each.number,
                len(each.prompt_ids),
                len(each.tokens),
                "cut off" if each.finished is None else each.finished.stop_reason,
                each.messages[-1].content if each.messages else "",
                "" if each.reply_text is None else each.reply_text,
            )
            for each in self.turns
        ]
        return html_table(f"Run {self.run_id}: {self.status_text}", head, rows, end="more rounds")


def rebuild(recording: Recording | LoadedRun, *, turns: Sequence[int] | None = None) -> Rebuilt:
    """Rebuild every prompt and reply of a run, or of some turns, from its events alone.

    Of a long run only the events that the turns need are read. Raise RecordingError if the events
    contradict each other, and NothingToReplayError for a turn that the run does not have, or a
    conversation that was imported without tokens.

    Example:
        >>> import tokentape as tt
        >>> rebuilt = tt.rebuild(store.recording(run_id))
        >>> [turn.number for turn in rebuilt.turns]
        [1, 2, 3]
        >>> rebuilt.messages[0].role
        'system'
        >>> tt.rebuild(store.recording(run_id), turns=[2]).turns[0].number
        2
    """
    run = load_run(recording, turns)
    check_has_tokens(run)
    rounds = tuple(each for each in run.turns if turns is None or each.number in turns)
    missing = sorted(set(turns or ()) - {each.number for each in rounds})
    if missing:
        raise NothingToReplayError(
            f"run {run.run_id} has no turn {missing[0]}{run.unfinished_note}"
        )
    broken = run.broken_prompt_hashes()
    if broken:
        raise RecordingError(f"run {run.run_id}: {broken[0]}")
    ended = run.ended()
    return Rebuilt(
        run_id=run.run_id,
        turns=rounds,
        messages=run.messages(),
        status="running" if ended is None else ended.status,
        status_text=run.status_text,
    )
