"""The comparison of one recorded token with its replay, bit for bit."""

import math
import struct
from collections.abc import Iterator

from tokentape.generation.engine.sampling import Measures
from tokentape.recorder.events import TokenSampled
from tokentape.replay.results.row_difference import NumberDifference, RowDifference

_FLOAT32, _HALF = "f", "e"


def compare_row(token: TokenSampled, replayed: Measures, picked_id: int) -> RowDifference | None:
    """Return how the replayed numbers of a token differ from the recorded ones, or None.

    `replayed` are those of the recorded token; `picked_id` is the one that the sampler picked.
    """
    top_ids, top_logprobs = replayed.top_ids, replayed.top_logprobs
    if (
        token.logprob == replayed.logprob
        and token.logprob_processed == replayed.logprob_processed
        and token.entropy == replayed.entropy
        and token.top_gap == replayed.top_gap
        and token.top_ids == top_ids
        and token.top_logprobs == top_logprobs
        and token.token_id == picked_id
    ):
        return None
    return RowDifference(
        turn=token.turn,
        step=token.step,
        position=token.position,
        token_id=token.token_id,
        picked_id=picked_id,
        recorded_top_ids=token.top_ids,
        replayed_top_ids=top_ids,
        numbers=tuple(_numbers(token, replayed)),
    )


def _numbers(token: TokenSampled, replayed: Measures) -> Iterator[NumberDifference]:
    """Yield the numbers that differ, in the order in which a forward computes them."""
    pairs = [
        ("logprob", _FLOAT32, token.logprob, replayed.logprob),
        ("entropy", _HALF, token.entropy, replayed.entropy),
        ("top_gap", _HALF, token.top_gap, replayed.top_gap),
        *(
            (f"top_logprobs[{index}]", _HALF, recorded, again)
            for index, (recorded, again) in enumerate(
                zip(token.top_logprobs, replayed.top_logprobs, strict=False)
            )
        ),
        ("logprob_processed", _FLOAT32, token.logprob_processed, replayed.logprob_processed),
    ]
    for name, form, recorded, again in pairs:
        if recorded == again:
            continue
        known = math.isfinite(again)
        yield NumberDifference(
            name=name,
            recorded=recorded,
            replayed=again if known else None,
            ulps=ulps_between(recorded, again, form) if known else None,
        )


def ulps_between(a: float, b: float, form: str = _FLOAT32) -> int:
    """Return how many representable values lie between two numbers: 0 if they are equal.

    `form` is the format of `struct` for their precision, `f` or `e`. Numbers of one sign are
    ordered like their bits, so that the distance is a difference of integers.
    """
    return abs(_order(a, form) - _order(b, form))


def _order(number: float, form: str) -> int:
    """Return the number's place in the order of its precision; zero for both zeros."""
    code = {"f": "<i", "e": "<h"}[form]
    (bits,) = struct.unpack(code, struct.pack(f"<{form}", number))
    lowest = -(2 ** (8 * struct.calcsize(code) - 1))
    return int(bits if bits >= 0 else lowest - bits)
