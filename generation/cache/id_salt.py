"""Salted ids: token ids tagged with the interventions that are active at their position.

A cached position can be reused only if both its id and its interventions are equal. Cache backends
compare ids alone, so the ids are salted, like vLLM's cache salt: the bits above the lower 32 hold a
hash of the interventions active at that position. An id without interventions is unchanged.
"""

import hashlib
import json
from collections.abc import Sequence

from tokentape.recorder.projections.active_interventions import ActiveRange, split_by_interventions

_ID_BITS = 32
_ID = (1 << _ID_BITS) - 1
_SALT_BYTES = 16


def salt_ids(ids: Sequence[int], ranges: Sequence[ActiveRange]) -> tuple[int, ...]:
    """Return the ids of a stream, salted with the interventions of these ranges of positions."""
    if not ranges or not ids:
        return tuple(ids)
    salted: list[int] = []
    for start, end, active in split_by_interventions(ranges, len(ids)):
        salt = _salt(active)
        salted += [salt | each for each in ids[start:end]] if salt else ids[start:end]
    return tuple(salted)


def strip_salt(ids: Sequence[int]) -> tuple[int, ...]:
    """Return the plain token ids."""
    return tuple(each & _ID for each in ids)


def is_salted(token_id: int) -> bool:
    """Return whether an intervention is active at the position of this id."""
    return token_id > _ID


def unsalted_prefix(prompt: Sequence[int]) -> Sequence[int]:
    """Return the prompt up to and including its first salted id, without its salt.

    The last token of a prompt is always computed, so that only unsalted ids can be reused.
    """
    first = next((index for index, each in enumerate(prompt) if is_salted(each)), None)
    return prompt if first is None else (*prompt[:first], prompt[first] & _ID)


def _salt(active: Sequence[ActiveRange]) -> int:
    """Return a multiple of 2**32 that identifies the interventions in order; zero for none."""
    if not active:
        return 0
    described = [
        [
            each.applied.kind,
            each.applied.layers,
            each.applied.coefficient,
            each.applied.dimensions,
            each.applied.tensor_sha256,
            each.tensor_start,
        ]
        for each in active
    ]
    digest = hashlib.sha256(json.dumps(described).encode()).digest()
    return int.from_bytes(digest[:_SALT_BYTES]) << _ID_BITS
