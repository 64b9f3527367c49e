"""Which turns of a recording can be replayed, and which of them share a forward."""

from collections.abc import Callable, Iterator, Sequence

from transformers import LogitsProcessorList

from tokentape.generation import LoadedModel, hf
from tokentape.recorder import Recording, RecordingError
from tokentape.recorder.projections import Turn
from tokentape.recorder.redaction import REDACTED
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.errors import NothingToReplayError, ReplayError

OwnProcessors = Callable[[Turn], LogitsProcessorList]
"""Makes the logits processors of the caller's own that a turn was generated with."""


def choose_turns(
    recording: Recording, numbers: Sequence[int] | None, own: OwnProcessors | None = None
) -> list[Turn]:
    """The turns that hold tokens, or those asked for.

    Raises NothingToReplayError where there are none, and ReplayError for turns that no event
    rebuilds, unless `own` makes what the events lack.
    """
    every = [turn for turn in recording.turns() if turn.tokens]
    chosen = [turn for turn in every if numbers is None or turn.number in numbers]
    missing = sorted(set(numbers or ()) - {turn.number for turn in chosen})
    if missing:
        raise NothingToReplayError(f"run {recording.run_id} has no turn {missing[0]} with tokens")
    if not chosen:
        raise NothingToReplayError(f"run {recording.run_id} has no token to replay")
    if any(REDACTED in turn.started.unreplayable for turn in chosen):
        raise NothingToReplayError(
            f"run {recording.run_id} was redacted: the ids that the model saw were not kept"
        )
    for turn in chosen:
        lacking = what_lacks(turn, own)
        if lacking:
            raise ReplayError(lacking)
    return chosen


def what_lacks(turn: Turn, own: OwnProcessors | None = None) -> str:
    """Why no event rebuilds how a turn was generated, in a sentence; empty where they do."""
    given = {type(each).__name__ for each in own(turn)} if own is not None else set()
    # The clock only stops a turn; a redacted one is refused for its ids.
    known = {"max_time", REDACTED, *given}
    lacking = [name for name in turn.started.unreplayable if name not in known]
    if not lacking:
        return ""
    return f"turn {turn.number} was generated with {', '.join(lacking)}, which no event rebuilds"


def check_ids_known(turns: Sequence[Turn], lm: LoadedModel) -> None:
    """Raise RecordingError for ids that the model cannot read."""
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    for turn in turns:
        highest = max((*turn.prompt_ids, *turn.reply_ids))
        if highest >= vocabulary:
            raise RecordingError(
                f"turn {turn.number} holds token {highest}, and the model has {vocabulary}: "
                "this is another model, or the recording is altered"
            )


def branches(
    turns: Sequence[Turn], lm: LoadedModel, interventions: Interventions
) -> Iterator[list[Turn]]:
    """Turns of which each continues the one before: they share a forward.

    A history that was written anew, or computed anew under other interventions, begins another
    branch. Turns stay alone for a model to which a prefix is not the same in a longer sequence.
    """
    alone = hf.prefix_obstacle(lm.model) is not None
    branch: list[Turn] = []
    stream: tuple[int, ...] = ()
    for turn in turns:
        stream_now = interventions.salt_ids(turn)
        behind = stream_now[: len(stream)] == stream and len(stream) <= len(turn.prompt_ids)
        if branch and (alone or not behind):
            yield branch
            branch = []
        branch.append(turn)
        stream = stream_now
    if branch:
        yield branch


def stream_of(branch: Sequence[Turn]) -> tuple[int, ...]:
    """The ids that a forward over the branch reads."""
    return (*branch[-1].prompt_ids, *branch[-1].reply_ids)


def reply_rows(branch: Sequence[Turn]) -> list[int]:
    """The positions whose logits chose the tokens of the branch, in order."""
    return [len(turn.prompt_ids) + step - 1 for turn in branch for step in range(len(turn.tokens))]
