"""The lower bound of a decoding step: reading the weights once at this machine's bandwidth."""

import time

import torch

import tokentape as tt
from benchmarks.peers.token_times import TokenTimes

_MIB = 512
"""More than the caches of a processor hold, so that every read comes from memory."""
_READS = 8


def bytes_per_s() -> float:
    """Return how many bytes a second are read by summing 512 MiB of float32; the best read."""
    values = torch.ones(_MIB * 2**18)
    seconds = []
    for _ in range(_READS):
        began = time.perf_counter()
        values.sum()
        seconds.append(time.perf_counter() - began)
    return values.nbytes / min(seconds)


def weight_bytes(lm: tt.LoadedModel) -> int:
    """Return the bytes of the weights that a decoding step reads; tied tensors count once."""
    sizes = {each.data_ptr(): each.nbytes for each in lm.model.parameters()}
    return sum(sizes.values())


def weights_once(lm: tt.LoadedModel, new_tokens: int) -> TokenTimes:
    """Return the times of tokens that each take as long as reading the weights once."""
    step_s = weight_bytes(lm) / bytes_per_s()
    at_s = tuple(step_s * number for number in range(1, new_tokens + 1))
    return TokenTimes(began_s=0.0, ended_s=at_s[-1], at_s=(at_s,))
