"""Interventions, and runs under them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tokentape as tt
from tests.samplers import GREEDY
from tokentape.recorder.events import (
    InterventionApplied,
)
from tokentape.recorder.projections import ActiveRange
from tokentape.store import DatabaseStore

MakeLM = Callable[..., tt.LoadedModel]


def applied(asked: tt.Intervention, position: int = 0, **fields: Any) -> InterventionApplied:
    layers = fields.pop("layers", ("model.layers.0",))
    request = asked.event(layers=layers, clear_cache=False, turn=None)
    described = {each.name: getattr(request, each.name) for each in dataclasses.fields(request)}
    del described["clear_cache"], described["turn"]
    return InterventionApplied(turn=1, position=position, **described)


def active(asked: tt.Intervention, start: int, end: int | None, **fields: Any) -> ActiveRange:
    event = applied(asked, start, **fields)
    return ActiveRange(applied=event, start=start, end=end, tensor_start=event.tensor_start)


def say(lm: tt.LoadedModel, store: DatabaseStore, *given: tt.Intervention) -> tt.Recording:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=2) as run:
        run.chat("One?", max_new_tokens=6, **GREEDY)
        for each in given:
            run.intervene(each)
        run.chat("Two?", max_new_tokens=6, **GREEDY)
        run.chat("Three?", max_new_tokens=6, do_sample=True)
    return store.recording(run.run_id)
