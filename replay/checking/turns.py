"""Selection of the turns to replay, and the branches of turns that share a forward."""

from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import GenerationConfig, LogitsProcessorList

from tokentape.generation import LoadedModel, hf
from tokentape.recorder import RecordingError
from tokentape.recorder.events import TurnFinished
from tokentape.recorder.events.turn import CALLS
from tokentape.recorder.projections import Turn
from tokentape.replay.checking.interventions import Interventions

TurnProcessors = Callable[[Turn], LogitsProcessorList]
"""Creates new instances of the user's own logits processors that a turn was generated with."""


def prepare_round(
    turn: Turn,
    lm: LoadedModel,
    config: GenerationConfig,
    ids: torch.Tensor,
    *,
    processors: LogitsProcessorList | None = None,
) -> hf.Preparation:
    """Return the processors and criteria of a round in their state before its first token.

    `ids` begin with the prompt, int64 of shape (1, tokens). Of a round that continues a reply they
    count from the beginning of that.
    """
    own = turn.own_prompt_tokens
    prepared = hf.prepare(lm.model, lm.tokenizer, config, ids[:, :own], processors=processors)
    if turn.continued_tokens:
        vocabulary = lm.model.get_input_embeddings().num_embeddings
        hf.catch_up(prepared.processors, ids[:, : len(turn.prompt_ids)], own, vocabulary)
    return prepared


def stop_of_settings(finished: TurnFinished) -> str | None:
    """Return the reason for which its settings stop a round at its last token.

    None if it calls a tool: the text of the reply decides that, not the settings.
    """
    reason = finished.stop_reason
    return None if reason in CALLS else reason


def check_ids_known(turns: Sequence[Turn], lm: LoadedModel) -> None:
    """Raise RecordingError if a turn has ids outside of the model's vocabulary."""
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
    """Yield lists of turns that share a forward: each turn's stream extends the previous one's.

    A history that was rendered again, pruned, or computed under other interventions starts a new
    branch. If the model computes a prefix differently in a longer sequence, each turn is a branch.
    """
    alone = hf.prefix_obstacle(lm.model) is not None
    branch: list[Turn] = []
    previous: tuple[int, ...] = ()
    for turn in turns:
        stream = interventions.salt_ids(turn)
        extends = stream[: len(previous)] == previous and len(previous) <= len(turn.prompt_ids)
        if branch and (alone or not extends):
            yield branch
            branch = []
        branch.append(turn)
        previous = stream
    if branch:
        yield branch


def stream_of(branch: Sequence[Turn]) -> tuple[int, ...]:
    """Return the ids of a forward over the branch: the last prompt and reply."""
    return (*branch[-1].prompt_ids, *branch[-1].reply_ids)


def reply_rows(branch: Sequence[Turn]) -> list[int]:
    """Return the ascending positions whose logits chose the tokens of the branch."""
    return [len(turn.prompt_ids) + step - 1 for turn in branch for step in range(len(turn.tokens))]
