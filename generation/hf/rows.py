"""Logits processors over the rows of a sequence that is known already, many rows at once."""

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

_WITHOUT_HISTORY = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
"""Processors to which a row is what its logits are, whatever came before."""


def process_rows(
    processors: LogitsProcessorList, ids: torch.Tensor, seen: int, logits: torch.Tensor
) -> torch.Tensor:
    """Scores of consecutive rows, as if each had been processed when its turn came.

    `logits` has shape (rows, vocab) and is left as it is; `ids` has shape (1, tokens), and row `i`
    is given the first `seen + i` of them. Processors that keep a state see the rows in order, so
    calls must go on where the last one ended. Unknown ones are given one row at a time.
    """
    scores = logits
    if any(not type(each).__module__.startswith("transformers.") for each in processors):
        scores = logits.clone()
    for processor in processors:
        if type(processor) in _WITHOUT_HISTORY:
            scores = processor(ids[:, :seen], scores)
        elif _takes_repeated_ids(processor):
            scores = processor(_padded(ids, seen, len(scores)), scores)
        else:
            rows = [
                processor(ids[:, : seen + row], scores[row : row + 1]) for row in range(len(scores))
            ]
            scores = torch.cat(rows)
    return scores


def catch_up(
    processors: LogitsProcessorList, ids: torch.Tensor, prompt_tokens: int, vocabulary: int
) -> None:
    """Show processors that keep a state the steps between prompt and end of `ids`, (1, tokens).

    A state follows from the ids that were seen, not from the logits: even ones stand in for these.
    """
    even = torch.zeros((1, vocabulary), device=ids.device)
    stateful = [each for each in processors if type(each) not in _WITHOUT_HISTORY]
    for seen in range(prompt_tokens, ids.shape[1]) if stateful else ():
        for processor in stateful:
            processor(ids[:, :seen], even.clone())


def _takes_repeated_ids(processor: LogitsProcessor) -> bool:
    """Whether an id that is there twice counts once: then a history can be padded with its own."""
    return (
        type(processor) is RepetitionPenaltyLogitsProcessor
        and processor.prompt_ignore_length is None
    )


def _padded(ids: torch.Tensor, seen: int, rows: int) -> torch.Tensor:
    """The history of each row, shape (rows, tokens): what is to come is the first token again."""
    longest = seen + rows - 1
    places = torch.arange(longest, device=ids.device)
    lengths = seen + torch.arange(rows, device=ids.device)
    return torch.where(places[None, :] < lengths[:, None], ids[:, :longest], ids[:, :1])
