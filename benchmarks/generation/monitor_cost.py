"""Cost of an `ActivationMonitor`: decoding steps with a monitor on four layers and without."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

import tokentape as tt
from benchmarks.generation.forward_timer import ForwardTimer, step_ms
from benchmarks.prompts import prompt_ids
from tokentape.generation.hooks.layers import decoder_layers
from tokentape.generation.introspection import ActivationMonitor

CONTEXT_TOKENS, NEW_TOKENS, ROUNDS, LAYERS = 64, 64, 9, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorFigures:
    """The median step of each round, with and without a monitor."""

    layers: tuple[str, ...]
    step_ms: dict[str, list[float]]
    """By mode: `plain` without a monitor, `compact`, `full`."""
    same_tokens: bool

    def cost_ms(self, mode: str) -> float:
        """Return the median over rounds of the time beyond a plain step of the same round."""
        pairs = zip(self.step_ms[mode], self.step_ms["plain"], strict=True)
        return median(watched - plain for watched, plain in pairs)


def measure_monitor_cost(
    lm: tt.LoadedModel,
    *,
    new_tokens: int = NEW_TOKENS,
    rounds: int = ROUNDS,
    tick: Callable[[], None] = lambda: None,
) -> MonitorFigures:
    """Decode in each mode in each round.

    The order alternates. One more round, the first, warms up and is not counted.
    """
    names = [name for name, _ in decoder_layers(lm.model)]
    layers = tuple(names[index * (len(names) - 1) // (LAYERS - 1)] for index in range(LAYERS))
    monitors = {
        "plain": None,
        "compact": ActivationMonitor(lm.model, layers),
        "full": ActivationMonitor(lm.model, layers, full=True),
    }
    ids = prompt_ids(lm.tokenizer, CONTEXT_TOKENS)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    taken: dict[str, list[float]] = {mode: [] for mode in monitors}
    replies = set()
    with ForwardTimer(lm.model) as forwards:
        for number in range(rounds + 1):
            for mode in sorted(monitors, reverse=number % 2 == 0):
                tokens = _decode(generator, ids, monitors[mode], new_tokens)
                replies.add(tokens)
                steps = step_ms(forwards.drain(), len(tokens))
                if number:
                    taken[mode].append(median(steps))
            tick()
    return MonitorFigures(layers=layers, step_ms=taken, same_tokens=len(replies) == 1)


def _decode(
    generator: tt.ManualGenerator, ids: list[int], monitor: ActivationMonitor | None, tokens: int
) -> tuple[int, ...]:
    def read_monitor(token_id: int, logits: Any) -> None:
        if monitor is not None:
            monitor.take_events()

    with monitor.observe() if monitor is not None else nullcontext():
        result = generator.generate(
            ids,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            callback=read_monitor,
        )
    return tuple(result["generated_tokens"])


def monitor_table(figures: MonitorFigures) -> Table:
    """Return a table with a row for each mode."""
    table = Table(f"{len(figures.layers)} layers", box=None)
    for heading in ("ms/token", "extra ms", "of a step", "range"):
        table.add_column(heading, justify="right")
    plain = median(figures.step_ms["plain"])
    for mode, steps in figures.step_ms.items():
        cost = figures.cost_ms(mode)
        more = ("", "") if mode == "plain" else (f"{cost:.2f}", f"{cost / plain:.1%}")
        spread = f"{min(steps):.1f} to {max(steps):.1f}"
        table.add_row(mode, f"{median(steps):.1f}", *more, spread)
    return table
