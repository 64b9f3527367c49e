"""Measure the noise floor of a machine and a model from several forwards of the same ids.

The forwards differ only in the order of additions, so every difference between them is noise. The
margin is measured between the two likeliest tokens, the log-probability on the recorded token.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from tokentape.generation import LoadedModel, ModelError, hf
from tokentape.generation.cache.policy import cache_policy
from tokentape.generation.checks import check_not_training
from tokentape.generation.hf.attention_kernel import attention_kernel
from tokentape.generation.hooks.model_use import exclusive_use
from tokentape.generation.numerics.threads import torch_threads
from tokentape.recorder import Recording
from tokentape.recorder.paths import name_without_folders
from tokentape.replay.checking.interventions import Interventions
from tokentape.replay.checking.noise_floor import FLOORS, version_of
from tokentape.replay.checking.teacher_forcing import chunk_spans, logits_by_span
from tokentape.replay.checking.turn_choice import choose_turns
from tokentape.replay.checking.turns import branches, reply_rows, stream_of
from tokentape.replay.recorded.loaded_run import LoadedRun, load_run
from tokentape.replay.results.errors import ReplayError
from tokentape.replay.results.report import Floor

# Noise has a tail: a few thousand tokens do not show the largest difference.
_MARGIN_FACTOR = 8.0
_LOGPROB_FACTOR = 4.0
_LARGEST_FACTOR = 2.0
_ULPS = 8.0
_QUANTILE = 0.99

# The last tokens are forwarded one by one, as in generation; each costs a forward.
_STEPPED_TOKENS = 64
_CHUNK_TOKENS = 512
_TOKENS = 2048
# Tokens times the vocabulary: bounds the float32 logits to half a GB.
_LOGITS = 2**27

VariantStarted = Callable[[str, int, int], None]
"""Called before each forward variant with its name, its number from one on, and their count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardVariant:
    """One way to forward the same ids."""

    name: str
    chunk_tokens: int | None = None
    """Tokens forwarded at once; all of them for None."""
    stepped_tokens: int = 0
    """Last tokens that are forwarded one by one."""
    kernel: str | None = None
    """Attention kernel; the model's own for None."""
    threads: int | None = None
    """Threads of torch; unchanged for None."""


def forward_variants(lm: LoadedModel, threads: int) -> list[ForwardVariant]:
    """Return the forward variants that this model supports, the full pass first."""
    can_extend = hf.prefix_obstacle(lm.model) is None
    # Some recurrent models extend a state by one token at a time only.
    in_chunks = can_extend and cache_policy(lm.model).splits_prefill
    chunk = _CHUNK_TOKENS if in_chunks else None
    variants = [ForwardVariant(name="full pass")]
    if in_chunks:
        variants += [
            ForwardVariant(name="chunks of 64", chunk_tokens=64),
            ForwardVariant(name="chunks of 17", chunk_tokens=17),
        ]
    if can_extend:
        variants.append(
            ForwardVariant(name="steps of 1", chunk_tokens=chunk, stepped_tokens=_STEPPED_TOKENS)
        )
    if attention_kernel(lm.model) != "eager":
        variants.append(ForwardVariant(name="eager attention", chunk_tokens=chunk, kernel="eager"))
    variants += [
        ForwardVariant(name=f"threads: {count}", threads=count) for count in sorted({1, threads})
    ]
    return variants


def calibrate(
    recording: Recording | LoadedRun, lm: LoadedModel, *, progress: VariantStarted | None = None
) -> Floor:
    """Measure the floor of this model on this machine, over at most 2,048 tokens of a recording.

    The recorded numbers are not used, so that no fault becomes noise. In float32 the result is at
    least the built-in floor, which was measured over more tokens. `progress` is called before each
    forward variant. Raise ReplayError if model and recording differ in dtype, and the errors of
    `verify`.

    Example:
        >>> import tokentape as tt
        >>> floor = tt.calibrate(store.recording(run_id), lm)
        >>> floor.dtype, floor.logprob_floor < 0.01
        ('float32', True)
    """
    check_not_training(lm.model)
    with exclusive_use(lm.model):
        return _measured(load_run(recording), lm, progress)


def _measured(run: LoadedRun, lm: LoadedModel, progress: VariantStarted | None) -> Floor:
    """Return the floor over the last turns of a run."""
    turns = choose_turns(run, None)
    started = run.started
    dtype = str(hf.compute_dtype(lm.model)).removeprefix("torch.")
    if dtype != started.dtype:
        raise ReplayError(
            f"the model computes in {dtype} and the run was recorded in {started.dtype}: "
            "their noise differs"
        )
    # Of the last branch, whose prompts are the longest.
    interventions = Interventions.load(run.recording, turns, enabled=True)
    branch = list(branches(turns, lm, interventions))[-1]
    ranges = interventions.of_turn(branch[-1])
    vocabulary = lm.model.get_input_embeddings().num_embeddings
    ids, rows = stream_of(branch), reply_rows(branch)[-min(_TOKENS, _LOGITS // vocabulary) :]
    threads = torch.get_num_threads()
    variants = forward_variants(lm, threads)
    noise = _Noise(ids, rows)
    for number, variant in enumerate(variants, 1):
        if progress is not None:
            progress(variant.name, number, len(variants))
        with _configured(lm.model, variant), interventions.applied(lm.model, ranges):
            noise.add(_logits(lm.model, ids, rows, variant))
    described = (
        f"{name_without_folders(lm.name)}, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()} {lm.model.device.type}: "
        + ", ".join(variant.name for variant in variants)
    )
    return noise.floor(dtype, hf.compute_dtype(lm.model), described, FLOORS.get(dtype))


class _Noise:
    """Differences between the rows of each forward variant and those of the first."""

    def __init__(self, ids: Sequence[int], rows: Sequence[int]) -> None:
        self._recorded_ids = torch.tensor([ids[row + 1] for row in rows])
        self._top = torch.zeros((len(rows), 2), dtype=torch.long)
        self._first = torch.zeros((len(rows), 2))
        self._variants = 0
        self._largest = 0.0
        self._differences: list[torch.Tensor] = []
        """For each variant but the first, shape (rows, 2): of margins and log-probabilities."""

    def add(self, blocks: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Add one variant: pairs of indices of rows and their logits, float32 (indices, vocab)."""
        differences = []
        first = self._variants == 0
        self._variants += 1
        for rows, logits in blocks:
            if not bool(logits.max().isfinite()):
                raise ModelError("the model's logits are not finite: its noise cannot be measured")
            if first:
                self._top[rows] = logits.topk(2).indices.cpu()
                self._largest = max(self._largest, logits.abs().max().item())
            pair = logits.gather(1, self._top[rows].to(logits.device))
            ids = self._recorded_ids[rows, None].to(logits.device)
            logprobs = torch.log_softmax(logits, dim=-1).gather(1, ids)
            numbers = torch.cat((pair[:, :1] - pair[:, 1:], logprobs), dim=-1).cpu()
            if first:
                self._first[rows] = numbers
            else:
                differences.append((numbers - self._first[rows]).abs())
        if differences:
            self._differences.append(torch.cat(differences).double())

    def floor(
        self, dtype: str, torch_dtype: torch.dtype, described: str, least: Floor | None
    ) -> Floor:
        """Return the floor; none of its numbers is below those of `least`."""
        # Of the noisiest variant: an average over all would be too low for it.
        mean = torch.stack([each.mean(dim=0) for each in self._differences]).amax(dim=0).tolist()
        tail = torch.stack([each.quantile(_QUANTILE, dim=0) for each in self._differences]).amax(
            dim=0
        )
        most = torch.stack([each.amax(dim=0) for each in self._differences]).amax(dim=0).tolist()
        # Logits that differ by less than a unit in the last place of the largest are equal. In
        # float32 a logit was rounded many times; in 16 bits the last rounding is the largest.
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
            tokens=sum(map(len, self._differences)),
            measured_on=described,
        )
        return replace(floor, version=version_of(floor))


def _logits(
    model: Any, ids: Sequence[int], rows: Sequence[int], variant: ForwardVariant
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield indices into `rows` and their logits, float32 of shape (indices, vocab)."""
    needed = rows[-1] + 1
    first_step = max(0, needed - variant.stepped_tokens)
    spans = [
        *chunk_spans(first_step, variant.chunk_tokens or needed),
        *((start, start + 1) for start in range(first_step, needed)),
    ]
    # The rows before the first step only fill the cache.
    skipped = bisect_left(rows, first_step) if variant.stepped_tokens else 0
    for indices, logits in logits_by_span(model, ids, rows[skipped:], spans):
        yield torch.tensor(indices) + skipped, logits


@contextmanager
def _configured(model: Any, variant: ForwardVariant) -> Iterator[None]:
    """Set the variant's attention kernel and threads within this context."""
    kernel = attention_kernel(model)
    with torch_threads(variant.threads):
        if variant.kernel is not None:
            model.set_attn_implementation(variant.kernel)
        try:
            yield
        finally:
            if variant.kernel is not None:
                model.set_attn_implementation(kernel)
