"""Ids that say under which interventions they were computed.

A cached position serves a prompt only where its id and what acted on it are equal. The shelves
compare ids and nothing else, so these are marked: above its lower 32 bits an id carries the sum of
the interventions that act there. Without any it is as it was.
"""

import hashlib
import json
from collections.abc import Sequence

from tokentape.recorder.projections.active_interventions import ActiveRange, acting_by_part

_ID_BITS = 32
_ID = (1 << _ID_BITS) - 1
_MARK_BYTES = 16


def salt_ids(ids: Sequence[int], ranges: Sequence[ActiveRange]) -> tuple[int, ...]:
    """The ids of a stream, each with the mark of what acts on it."""
    if not ranges or not ids:
        return tuple(ids)
    found: list[int] = []
    for start, end, acting in acting_by_part(ranges, len(ids)):
        mark = _mark(acting)
        found += [mark | each for each in ids[start:end]] if mark else ids[start:end]
    return tuple(found)


def strip_salt(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(each & _ID for each in ids)


def is_salted(marked_id: int) -> bool:
    return marked_id > _ID


def strip_salt_of_prefix(prompt: Sequence[int]) -> Sequence[int]:
    """A prompt up to the first id that something acts on, which has to be computed."""
    first = next((place for place, each in enumerate(prompt) if is_salted(each)), None)
    return prompt if first is None else (*prompt[:first], prompt[first] & _ID)


def _mark(acting: Sequence[ActiveRange]) -> int:
    """A multiple of 2**32 for what acts together, in its order; zero for nothing."""
    if not acting:
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
        for each in acting
    ]
    digest = hashlib.sha256(json.dumps(described).encode()).digest()
    return int.from_bytes(digest[:_MARK_BYTES]) << _ID_BITS
