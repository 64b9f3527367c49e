"""What it costs to watch: decoding with a monitor on four layers, and without, in turn."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

import tokentape as tt
from benchmarks.forwards import Forwards, step_ms
from benchmarks.texts import prompt_ids
from tokentape.generation.hooks.layers import decoder_layers
from tokentape.generation.introspection import ActivationMonitor

CONTEXT_TOKENS, NEW_TOKENS, ROUNDS, LAYERS = 64, 64, 9, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFigures:
    """The median step of each round, by what was measured in it."""

    layers: tuple[str, ...]
    step_ms: dict[str, list[float]]
    same_tokens: bool

    def cost_ms(self, way: str) -> float:
        """Beyond a plain step of the same round, the median of the rounds."""
        pairs = zip(self.step_ms[way], self.step_ms["plain"], strict=True)
        return median(watched - plain for watched, plain in pairs)


def measure_watching(
    lm: tt.LoadedModel,
    *,
    new_tokens: int = NEW_TOKENS,
    rounds: int = ROUNDS,
    tick: Callable[[], None] = lambda: None,
) -> WatchFigures:
    """Three ways in each round, the order turned about, after one round to warm up."""
    names = [name for name, _ in decoder_layers(lm.model)]
    layers = tuple(names[index * (len(names) - 1) // (LAYERS - 1)] for index in range(LAYERS))
    monitors = {
        "plain": None,
        "compact": ActivationMonitor(lm.model, layers),
        "full": ActivationMonitor(lm.model, layers, full=True),
    }
    ids = prompt_ids(lm.tokenizer, CONTEXT_TOKENS)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    taken: dict[str, list[float]] = {way: [] for way in monitors}
    said = set()
    with Forwards(lm.model) as forwards:
        for number in range(rounds + 1):
            for way in sorted(monitors, reverse=number % 2 == 0):
                tokens = _decode(generator, ids, monitors[way], new_tokens)
                said.add(tokens)
                steps = step_ms(forwards.take(), len(tokens))
                if number:
                    taken[way].append(median(steps))
            tick()
    return WatchFigures(layers=layers, step_ms=taken, same_tokens=len(said) == 1)


def _decode(
    generator: tt.ManualGenerator, ids: list[int], monitor: ActivationMonitor | None, tokens: int
) -> tuple[int, ...]:
    def take(token_id: int, logits: Any) -> None:
        if monitor is not None:
            monitor.take()

    with monitor.watching() if monitor is not None else nullcontext():
        result = generator.generate(
            ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, callback=take
        )
    return tuple(result["generated_tokens"])


def watch_table(figures: WatchFigures) -> Table:
    table = Table(f"{len(figures.layers)} layers", box=None)
    for heading in ("ms a token", "more", "of a step", "rounds"):
        table.add_column(heading, justify="right")
    plain = median(figures.step_ms["plain"])
    for way, steps in figures.step_ms.items():
        cost = figures.cost_ms(way)
        more = ("", "") if way == "plain" else (f"{cost:.2f}", f"{cost / plain:.1%}")
        spread = f"{min(steps):.1f} to {max(steps):.1f}"
        table.add_row(way, f"{median(steps):.1f}", *more, spread)
    return table
