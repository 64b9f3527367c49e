"""Measure the noise floor of a machine and a model: the same ids forwarded in several ways.

Only the order of additions differs between the ways, so whatever moves is noise. The margin is
measured between the two likeliest tokens, the log-probability on the recorded token.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from tokentape.generation import LoadedModel, ModelError, hf
from tokentape.generation.checks import check_not_training
from tokentape.generation.engine.threads import torch_threads
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.recorder import Recording
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.checking.noise_floor import FLOORS, version_of
from tokentape.replay.checking.teacher_forcing import logits_by_span, spans_of
from tokentape.replay.checking.turns import branches, choose_turns, reply_rows, stream_of
from tokentape.replay.errors import ReplayError
from tokentape.replay.verdict import Floor

# Noise has a tail: what was seen over some thousand tokens is not the largest there is.
_MARGIN_FACTOR = 8.0
_LOGPROB_FACTOR = 4.0
_LARGEST_FACTOR = 2.0
_ULPS = 8.0
_QUANTILE = 0.99

# Steps of one token each, as a turn is generated, cost a forward each.
_STEPPED_TOKENS = 64
_CHUNK_TOKENS = 512
_TOKENS = 2048
# Tokens times the vocabulary: half a GB of logits.
_LOGITS = 2**27

Measured = Callable[[str, int, int], None]
"""Called with the way that comes next, its number and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardVariant:
    """How ids are forwarded: in chunks (all at once for None), the last in steps of one token."""

    name: str
    chunk_tokens: int | None = None
    stepped_tokens: int = 0
    kernel: str | None = None
    threads: int | None = None


def ways_of(lm: LoadedModel, threads: int) -> list[ForwardVariant]:
    """The ways that this model can be forwarded in, the full pass first."""
    can_go_on = hf.prefix_obstacle(lm.model) is None
    # Some recurrent models go on from a state one token at a time only.
    in_chunks = can_go_on and not hf.recurrent(hf.new_cache(lm.model))
    chunk = _CHUNK_TOKENS if in_chunks else None
    ways = [ForwardVariant(name="full pass")]
    if in_chunks:
        ways += [
            ForwardVariant(name="chunks of 64", chunk_tokens=64),
            ForwardVariant(name="chunks of 17", chunk_tokens=17),
        ]
    if can_go_on:
        ways.append(
            ForwardVariant(name="steps of 1", chunk_tokens=chunk, stepped_tokens=_STEPPED_TOKENS)
        )
    if attention_kernel(lm.model) != "eager":
        ways.append(ForwardVariant(name="eager attention", chunk_tokens=chunk, kernel="eager"))
    ways += [
        ForwardVariant(name=f"threads: {count}", threads=count) for count in sorted({1, threads})
    ]
    return ways


def calibrate(recording: Recording, lm: LoadedModel, *, measured: Measured | None = None) -> Floor:
    """The floor of this model here, over the tokens of a recording, 2,048 of them at most.

    The recorded numbers play no part: a fault cannot become noise. In float32 the built-in
    floor is raised to what is seen here and never lowered: it has been measured for longer. Raises
    ReplayError for a model of another dtype than the recording, and as `verify` does.
    """
    check_not_training(lm.model)
    turns = choose_turns(recording, None)
    started = recording.started()
    dtype = str(lm.model.dtype).removeprefix("torch.")
    if dtype != started.dtype:
        raise ReplayError(
            f"the model is {dtype} and the run was recorded in {started.dtype}: their noise is "
            "not the same"
        )
    # The last branch is the longest, and its turns read what came before.
    acting = Interventions.of(recording, turns, act=True)
    branch = list(branches(turns, lm, acting))[-1]
    ranges = acting.of_turn(branch[-1])
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    ids, rows = stream_of(branch), reply_rows(branch)[-min(_TOKENS, _LOGITS // vocabulary) :]
    threads = torch.get_num_threads()
    ways = ways_of(lm, threads)
    noise = _Noise(ids, rows)
    for index, way in enumerate(ways):
        if measured is not None:
            measured(way.name, index + 1, len(ways))
        with _forwarded_as(lm.model, way), acting.acting(lm.model, ranges):
            noise.add(_logits(lm.model, ids, rows, way))
    described = (
        f"{lm.name}, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()} {lm.model.device.type}: "
        + ", ".join(way.name for way in ways)
    )
    return noise.floor(dtype, lm.model.dtype, described, FLOORS.get(dtype))


class _Noise:
    """How far the rows of other ways are from those of the first."""

    def __init__(self, ids: Sequence[int], rows: Sequence[int]) -> None:
        self._said = torch.tensor([ids[row + 1] for row in rows])
        self._top = torch.zeros((len(rows), 2), dtype=torch.long)
        self._first = torch.zeros((len(rows), 2))
        self._ways = 0
        self._largest = 0.0
        self._off: list[torch.Tensor] = []
        """Of each way but the first, shape (rows, 2): margins and log-probabilities."""

    def add(self, blocks: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Logits, float32 of shape (some, vocab), and which of the rows they are."""
        off = []
        first = self._ways == 0
        self._ways += 1
        for rows, logits in blocks:
            if not bool(logits.max().isfinite()):
                raise ModelError("the model's logits are not finite: they have no noise")
            if first:
                self._top[rows] = logits.topk(2).indices.cpu()
                self._largest = max(self._largest, logits.abs().max().item())
            pair = logits.gather(1, self._top[rows].to(logits.device))
            said = self._said[rows, None].to(logits.device)
            logprobs = torch.log_softmax(logits, dim=-1).gather(1, said)
            numbers = torch.cat((pair[:, :1] - pair[:, 1:], logprobs), dim=-1).cpu()
            if first:
                self._first[rows] = numbers
            else:
                off.append((numbers - self._first[rows]).abs())
        if off:
            self._off.append(torch.cat(off).double())

    def floor(
        self, dtype: str, torch_dtype: torch.dtype, described: str, least: Floor | None
    ) -> Floor:
        # Of the noisiest way: the others dilute it.
        mean = torch.stack([each.mean(dim=0) for each in self._off]).amax(dim=0).tolist()
        tail = torch.stack([each.quantile(_QUANTILE, dim=0) for each in self._off]).amax(dim=0)
        most = torch.stack([each.amax(dim=0) for each in self._off]).amax(dim=0).tolist()
        # A unit in the last place of the largest logit: two that are nearer cannot be told apart.
        # In float32 numbers have many roundings behind them, in 16 bits one exceeds all of these.
        ulp = self._largest * torch.finfo(torch_dtype).eps
        ulps = _ULPS * ulp if dtype == "float32" else ulp
        margin_tail, logprob_tail = tail.tolist()
        floor = Floor(
            version="",
            dtype=dtype,
            margin_eps=max(
                _MARGIN_FACTOR * margin_tail,
                _LARGEST_FACTOR * most[0],
                ulps,
                least.margin_eps if least else 0.0,
            ),
            logprob_floor=max(
                _LOGPROB_FACTOR * logprob_tail,
                _LARGEST_FACTOR * most[1],
                ulps,
                least.logprob_floor if least else 0.0,
            ),
            margin_noise=max(mean[0], least.margin_noise if least else 0.0),
            logprob_noise=max(mean[1], least.logprob_noise if least else 0.0),
            tokens=sum(map(len, self._off)),
            measured_on=described,
        )
        return replace(floor, version=version_of(floor))


def _logits(
    model: Any, ids: Sequence[int], rows: Sequence[int], way: ForwardVariant
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Places among the rows and their logits, float32 of shape (some, vocab)."""
    needed = rows[-1] + 1
    begun = max(0, needed - way.stepped_tokens)
    spans = [
        *spans_of(begun, way.chunk_tokens or needed),
        *((start, start + 1) for start in range(begun, needed)),
    ]
    # Ahead of the steps the cache is filled and no more.
    ahead = bisect_left(rows, begun) if way.stepped_tokens else 0
    for places, logits in logits_by_span(model, ids, rows[ahead:], spans):
        yield torch.tensor(places) + ahead, logits


@contextmanager
def _forwarded_as(model: Any, way: ForwardVariant) -> Iterator[None]:
    kernel = attention_kernel(model)
    with torch_threads(way.threads):
        if way.kernel is not None:
            model.set_attn_implementation(way.kernel)
        try:
            yield
        finally:
            if way.kernel is not None:
                model.set_attn_implementation(kernel)
