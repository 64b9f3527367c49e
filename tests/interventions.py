"""Interventions of every kind, and runs under them."""

from typing import Any

import torch

import tokentape as tt
from tests.samplers import GREEDY, SAMPLED
from tokentape.store import DatabaseStore

KINDS = ("steer", "ablate_zero", "ablate_mean", "scale", "patch", "placebo")
WIDTH = 64


def vector(seed: int = 0, *, rows: int | None = None) -> torch.Tensor:
    """Return a random vector, or rows of them, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((WIDTH,) if rows is None else (rows, WIDTH), generator=generator)


def intervention(
    kind: str, *, name: str = "it", layer: str | int = 0, seed: int = 0, **rule: Any
) -> tt.Intervention:
    """Return an intervention whose change is as large as the activations."""
    make = tt.Intervention
    if kind == "steer":
        return make.steer(name, layer, vector(seed), coefficient=2.5, **rule)
    if kind == "ablate_zero":
        return make.ablate(name, layer, **rule)
    if kind == "ablate_mean":
        return make.ablate(name, layer, mean=vector(seed), **rule)
    if kind == "scale":
        return make.scale(name, layer, 1.7, **rule)
    if kind == "patch":
        return make.patch(name, layer, vector(seed, rows=400), start=0, **rule)
    return make.placebo(name, layer, **rule)


def record_with(
    lm: tt.LoadedModel, store: DatabaseStore, *given: tt.Intervention, tokens: int = 5
) -> tt.Recording:
    """Record three turns: one without interventions, then a greedy and a sampled one with them."""
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=7) as run:
        run.chat("What is it?", max_new_tokens=tokens, **GREEDY)
        for each in given:
            run.intervene(each)
        run.chat("And now?", max_new_tokens=tokens, **GREEDY)
        run.chat("Why?", max_new_tokens=tokens, **SAMPLED)
    return store.recording(run.run_id)


def ranges_of(turn: Any) -> list[tuple[str, int, int]]:
    """Return the name and the span of each intervention of a turn."""
    return [(each.name, each.start, each.end) for each in turn.interventions]
