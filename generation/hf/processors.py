"""Logits processors: one step at a time, or all rows of a known sequence at once."""

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

from tokentape.generation.hf.nucleus import Nucleus, without_sorting

_WITHOUT_HISTORY = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    Nucleus,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
"""Processors whose result depends on the logits of the row alone, not on earlier ids."""

FILTERS = (
    TopKLogitsWarper,
    TopPLogitsWarper,
    TopHLogitsWarper,
    MinPLogitsWarper,
    TypicalLogitsWarper,
    EpsilonLogitsWarper,
    EtaLogitsWarper,
)
"""Processors that filter tokens at a threshold of probability, which noise can move."""


def process(
    processors: LogitsProcessorList, ids: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """Return the scores after all processors. The logits are not modified.

    `ids` has shape (1, tokens) and includes the prompt. Without a processor, the result is the
    logits tensor itself. Custom processors may work in place and get a copy. Calling
    `LogitsProcessorList` would inspect every signature in every step.
    """
    scores = logits
    if any(not type(each).__module__.startswith("transformers.") for each in processors):
        scores = logits.clone()
    for processor in without_sorting(processors):
        scores = processor(ids, scores)
    return scores


def process_rows(
    processors: LogitsProcessorList, ids: torch.Tensor, seen: int, logits: torch.Tensor
) -> torch.Tensor:
    """Return the scores of consecutive steps, as if they were processed one by one.

    `logits` has shape (rows, vocab) and is not modified. `ids` has shape (1, tokens); row `i`
    follows the first `seen + i` of them. Stateful processors see the rows in order, so consecutive
    calls must cover consecutive rows. Unknown processors get one row at a time.
    """
    scores = logits
    if any(not type(each).__module__.startswith("transformers.") for each in processors):
        scores = logits.clone()
    for processor in without_sorting(processors):
        if type(processor) in _WITHOUT_HISTORY:
            scores = processor(ids[:, :seen], scores)
        elif _ignores_repeated_ids(processor):
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
    """Update stateful processors for the steps from the end of the prompt to the end of `ids`.

    `ids` has shape (1, tokens). The state depends on the ids and not on the logits, so the
    processors are called with zero logits.
    """
    zeros = torch.zeros((1, vocabulary), device=ids.device)
    stateful = [each for each in processors if type(each) not in _WITHOUT_HISTORY]
    for seen in range(prompt_tokens, ids.shape[1]) if stateful else ():
        for processor in stateful:
            processor(ids[:, :seen], zeros.clone())


def _ignores_repeated_ids(processor: LogitsProcessor) -> bool:
    """Return whether repeated ids count once, so that ids can be padded with one of their own."""
    return (
        type(processor) is RepetitionPenaltyLogitsProcessor
        and processor.prompt_ignore_length is None
    )


def _padded(ids: torch.Tensor, seen: int, rows: int) -> torch.Tensor:
    """Return the ids before each row, shape (rows, tokens), padded with the first id."""
    longest = seen + rows - 1
    indices = torch.arange(longest, device=ids.device)
    lengths = seen + torch.arange(rows, device=ids.device)
    return torch.where(indices[None, :] < lengths[:, None], ids[:, :longest], ids[:, :1])
