"""Stopping criteria: which one stops a sequence, and why."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteriaList
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StopStringCriteria,
)

from tokentape.recorder.events import StopReason

_STOP_REASONS = {
    EosTokenCriteria: StopReason.EOS,
    StopStringCriteria: StopReason.STOP_STRING,
    MaxLengthCriteria: StopReason.MAX_NEW_TOKENS,
    MaxTimeCriteria: StopReason.MAX_TIME,
}


def stop_flags(criteria: StoppingCriteriaList, ids: torch.Tensor) -> torch.Tensor:
    """Return which criteria stop after `ids`, shape (1, tokens), as booleans of shape (criteria,).

    They stay on the device. `StoppingCriteriaList` returns only whether any of them stops.
    """
    flags = [_flag(criterion(ids, None), ids.device) for criterion in criteria]
    return torch.cat(flags) if flags else torch.zeros(0, dtype=torch.bool, device=ids.device)


def _flag(result: Any, device: torch.device) -> torch.Tensor:
    """Return the result of a criterion with shape (1,). Custom criteria may return a plain bool."""
    if isinstance(result, torch.Tensor) and result.shape == (1,):
        return result
    return torch.as_tensor(result, device=device).any().reshape(1)


def stop_reason_of(criteria: StoppingCriteriaList, flags: Sequence[bool]) -> str | None:
    """Return why generation stops, given the values of `stop_flags`, or None.

    If several criteria stop, the order is: end-of-sequence token, stop string, length, time.
    """
    fired = [type(each) for each, flag in zip(criteria, flags, strict=True) if flag]
    if not fired:
        return None
    named = [reason for kind, reason in _STOP_REASONS.items() if kind in fired]
    return named[0].value if named else f"custom:{fired[0].__name__}"


def stop_reason(criteria: StoppingCriteriaList, ids: torch.Tensor) -> str | None:
    """Return why generation stops after `ids`, shape (1, tokens), or None."""
    return stop_reason_of(criteria, stop_flags(criteria, ids).tolist())
