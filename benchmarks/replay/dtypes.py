"""One model in three precisions: memory, time, and the verdicts of the replays."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tokentape as tt
from benchmarks.prompts import prompt_ids, question
from tokentape.generation import hf
from tokentape.generation.models.loading_settings import LoadingKeywords

TURNS, ROUNDS = 6, 7
_CONTEXT, _STEPS, _PREFILL = 64, 24, 512
_SEED = 3
_SETTINGS: dict[str, Any] = {
    "max_new_tokens": 60,
    "do_sample": True,
    "temperature": 0.8,
    "top_p": 0.95,
}

PRECISIONS: dict[str, LoadingKeywords] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16 in float32": {"dtype": "bfloat16", "compute_dtype": "float32"},
}
"""The keywords of `load_model`, by the name of the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionFigures:
    """The figures of one precision."""

    name: str
    weights_bytes: int
    """Of parameters and buffers; tied ones once."""
    cast_bytes: int
    """Of the largest weight after its cast; 0 if weights are not cast."""
    kv_bytes_per_token: int
    step_ms: tuple[float, ...]
    """The median step of each round, with 64 tokens of context at its beginning."""
    prefill_s: tuple[float, ...]
    """A prefill of 512 tokens, in each round."""
    tokens: int
    """Recorded in the run that is replayed."""
    verify: str
    floor: str
    worst_nats: float
    """The largest difference of a log-probability that `verify` found."""
    flips: int
    """Tokens that `verify` would not have picked."""
    regenerate: str
    retrace: str


def measure_precisions(
    models: Mapping[str, tt.LoadedModel],
    folder: Path,
    *,
    turns: int = TURNS,
    rounds: int = ROUNDS,
    tick: Callable[[], None] = lambda: None,
) -> list[PrecisionFigures]:
    """Return the figures of each model. The models take turns within a round of the clock.

    `tick` is called after each round of a model, and after each replayed run.
    """
    timed: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in models}
    for number in range(rounds + 1):
        for name, lm in models.items():
            step_ms, prefill_s = _time_step_ms(lm), _time_prefill_s(lm)
            if number:  # the first round warms up
                timed[name][0].append(step_ms)
                timed[name][1].append(prefill_s)
                tick()
    figures = []
    for name, lm in models.items():
        with tt.open_store(folder / f"{name.replace(' ', '-')}.db") as store:
            replayed = _replay(_record(lm, store, turns), lm)
        tick()
        figures.append(
            PrecisionFigures(
                name=name,
                step_ms=tuple(timed[name][0]),
                prefill_s=tuple(timed[name][1]),
                **_memory(lm),
                **replayed,
            )
        )
    return figures


def computes_what_the_weights_cast_whole_compute(
    narrow: tt.LoadedModel, stored: tt.LoadedModel
) -> bool:
    """Return whether logits equal those of `stored` cast to float32, bit for bit.

    `stored` has the same weights in 16 bits; afterwards it has them in float32. Compared are a
    prefill of 512 tokens and 24 steps.
    """
    whole = stored.model.float()
    return all(
        torch.equal(one, other)
        for one, other in zip(_logits(narrow.model), _logits(whole), strict=True)
    )


def _logits(model: Any) -> list[torch.Tensor]:
    vocabulary = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(3, vocabulary, (1, _PREFILL + _STEPS), generator=generator)
    cache = hf.new_cache(model)
    decoder = hf.Decoder(model, hf.effective_config(model), ids[:, :_PREFILL], cache)
    seen = [decoder.prefill(128)[0]]
    for end in range(_PREFILL + 1, ids.shape[1] + 1):
        seen.append(decoder.forward(ids[:, :end]))
    return seen


def _memory(lm: tt.LoadedModel) -> dict[str, Any]:
    model = lm.model
    generator = tt.ManualGenerator(model, lm.tokenizer)
    result = generator.generate(
        prompt_ids(lm.tokenizer, _CONTEXT), max_new_tokens=1, do_sample=False, return_cache=True
    )
    prefix = result["past_key_values"]
    assert prefix is not None
    hf.compact(prefix.cache)
    wide = hf.compute_dtype(model)
    cast = (each for each in model.parameters() if each.dtype != wide)
    return {
        "weights_bytes": hf.storage_bytes(iter((*model.parameters(), *model.buffers()))),
        "cast_bytes": max((each.numel() * wide.itemsize for each in cast), default=0),
        "kv_bytes_per_token": hf.kv_bytes(prefix.cache) // _CONTEXT,
    }


def _time_step_ms(lm: tt.LoadedModel) -> float:
    clock: list[float] = []
    tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        prompt_ids(lm.tokenizer, _CONTEXT),
        max_new_tokens=_STEPS,
        min_new_tokens=_STEPS,
        do_sample=False,
        callback=lambda token_id, logits: clock.append(time.perf_counter()),
    )
    steps = sorted(later - earlier for earlier, later in itertools.pairwise(clock))
    return steps[len(steps) // 2] * 1000.0


def _time_prefill_s(lm: tt.LoadedModel) -> float:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    ids = prompt_ids(lm.tokenizer, _PREFILL)
    began = time.perf_counter()
    generator.generate(ids, max_new_tokens=1, do_sample=False)
    return time.perf_counter() - began


def _record(lm: tt.LoadedModel, store: Any, turns: int) -> tt.Recording:
    with tt.Investigation(
        lm, store=store, name="precision", system_prompt="You are brief.", seed=_SEED
    ) as run:
        for turn in range(1, turns + 1):
            run.chat(f"Say this in other words: {question(turn, 40)}", **_SETTINGS)
    recording: tt.Recording = store.recording(run.run_id)
    return recording


def _replay(recording: tt.Recording, lm: tt.LoadedModel) -> dict[str, Any]:
    # In 16 bits nothing can be said without a floor of the model.
    floor = None if hf.compute_dtype(lm.model) == torch.float32 else tt.calibrate(recording, lm)
    report = tt.verify(recording, lm, floor=floor)
    again = tt.regenerate(recording, lm, floor=floor)
    worst = [each.logprob_difference_max for each in report.turns]
    return {
        "tokens": sum(len(turn.tokens) for turn in recording.turns()),
        "verify": str(report.verdict),
        "floor": f"{report.floor.logprob_floor:.2g} nats" if report.floor else "",
        "worst_nats": max(worst),
        "flips": sum(each.mismatches for each in report.turns),
        "regenerate": str(again.verdict),
        "retrace": str(tt.retrace(recording, lm).verdict),
    }
