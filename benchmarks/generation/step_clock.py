"""How the time of a decoding step splits into parts, each without the parts that it calls."""

import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.cache_utils import Cache

from tokentape.generation import hf
from tokentape.generation.engine import token_sequence
from tokentape.generation.hf.traced_step import StepForwards
from tokentape.recorder import Recorder

LINEAR = "linear layers"
ATTENTION = "attention"
NORMS = "norms"
ROTARY = "rotary embedding"
MASK = "attention mask"
CACHE = "cache update"
MODULES = "rest of the forward"
FORWARD = "traced forward"
INPUTS = "model inputs"
PROCESSORS = "logits processors"
DRAW = "draw"
STOP = "stopping criteria"
MEASURE = "measure"
RECORD = "record"
LOOP = "rest of the loop"
PARTS = (
    *(FORWARD, LINEAR, ATTENTION, NORMS, ROTARY, MASK, CACHE, MODULES, INPUTS),
    *(PROCESSORS, DRAW, STOP, MEASURE, RECORD, LOOP),
)
"""The parts in the order of a step; `rest of the loop` is what no other part holds."""


def step_clock() -> Callable[[], float]:
    """Return a clock in seconds: with one thread of torch, that of its time on the processor."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


class StepClock:
    """Adds up the time of each part of a step. A part does not count the parts within it."""

    def __init__(self) -> None:
        self._clock = step_clock()
        self._now = LOOP
        self._since_s = self._clock()
        self._ms: dict[str, float] = defaultdict(float)
        self._steps: list[dict[str, float]] = []

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, with its time counted as a part of the step."""

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            outer = self._switch(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch(outer)

        return counted

    def begin_step(self) -> None:
        """End the step that is being timed, and begin another."""
        self._switch(self._now)
        self._steps.append(dict(self._ms))
        self._ms.clear()

    def take_steps(self) -> list[dict[str, float]]:
        """Return the milliseconds by part of the steps so far, and forget them."""
        taken, self._steps = self._steps, []
        return taken

    def _switch(self, part: str) -> str:
        """Count the time until now for the part of now, and that from now on for another."""
        now_s = self._clock()
        self._ms[self._now] += (now_s - self._since_s) * 1000.0
        before, self._now, self._since_s = self._now, part, now_s
        return before


@contextmanager
def timing_steps(model: Any, *, within_forwards: bool) -> Iterator[StepClock]:
    """Within this context, time the parts of each step of a model, which must be idle until then.

    Functions and methods are replaced for the time of the context. No module gets a hook, which
    would turn inference mode off. With `within_forwards` the modules are timed one by one, so no
    step is taken from a trace. A step begins with the preparation of the model's inputs.
    """
    clock = StepClock()
    with ExitStack() as stack:
        inside = _places_within(model) if within_forwards else ((StepForwards, "forward", FORWARD),)
        for owner, name, part in (*inside, *_places_around(model)):
            stack.enter_context(_replaced(owner, name, clock.timed(part, getattr(owner, name))))
        prepare = model.prepare_inputs_for_generation

        @functools.wraps(prepare)
        def stepping(*args: Any, **kwargs: Any) -> Any:
            clock.begin_step()
            return prepare(*args, **kwargs)

        stack.enter_context(_replaced(model, "prepare_inputs_for_generation", stepping))
        yield clock


def _places_within(model: Any) -> Iterator[tuple[Any, str, str]]:
    """Yield what is timed of a forward: owner and name of a function, and its part."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            yield module, "forward", LINEAR
        elif "Norm" in type(module).__name__:
            yield module, "forward", NORMS
        elif "Rotary" in type(module).__name__:
            yield module, "forward", ROTARY
    family = sys.modules[type(model).__module__]
    for name, part in (("apply_rotary_pos_emb", ROTARY), ("create_causal_mask", MASK)):
        if hasattr(family, name):
            yield family, name, part
    yield torch.nn.functional, "scaled_dot_product_attention", ATTENTION
    yield Cache, "update", CACHE
    yield model, "forward", MODULES


def _places_around(model: Any) -> Iterator[tuple[Any, str, str]]:
    """Yield what is timed of a step besides its forward, as `_places_within` does."""
    yield model, "prepare_inputs_for_generation", INPUTS
    yield model, "_update_model_kwargs_for_generation", INPUTS
    yield LogitsProcessorList, "__call__", PROCESSORS
    yield hf, "process", PROCESSORS
    yield hf, "stop_flags", STOP
    yield token_sequence, "draw", DRAW
    yield token_sequence, "measure", MEASURE
    yield Recorder, "record", RECORD


@contextmanager
def _replaced(owner: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Replace an attribute within this context."""
    own = vars(owner).get(name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
