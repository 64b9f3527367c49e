"""What holds a decoding step: its parts in tokentape and in `generate`, and the memory's speed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.table import Table

import tokentape as tt
from benchmarks.generation.engines import SAMPLERS, GenerateEngine, TimedReply, TokentapeEngine
from benchmarks.generation.forward_timer import ForwardTimer
from benchmarks.generation.step_clock import LINEAR, PARTS, step_clock, timing_steps
from benchmarks.prompts import prompt_ids
from benchmarks.stores import open_file_store

CONTEXTS = (64, 5_000)
NEW_TOKENS, ROUNDS = 32, 5
_READ_BYTES = 512 * 1024**2
_READ_REPEATS = 9
TRACED, BY_MODULES, GENERATE = COLUMNS = ("tokentape", "by modules", "generate")
"""tokentape as it is; its modules timed one by one, so without traced steps; `generate`."""
_SAMPLER = "sampled"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProfile:
    """The median milliseconds of each part of a step, by column of the table."""

    context_tokens: int
    parts_ms: dict[str, dict[str, float]]
    """By column and part."""
    step_ms: dict[str, float]
    """The median of whole steps, which the medians of their parts add up to only roughly."""
    weight_bytes: int
    """Bytes of the weights of all linear layers, which a step reads once."""
    read_gb_s: float
    """Gigabytes a second at which this machine adds up a large tensor."""

    @property
    def linear_gb_s(self) -> float:
        """Return the gigabytes of weights that the linear layers read in a second."""
        return self.weight_bytes / self.parts_ms[BY_MODULES][LINEAR] / 1e6


def measure_step_profiles(
    lm: tt.LoadedModel,
    folder: Path,
    *,
    contexts: Sequence[int] = CONTEXTS,
    new_tokens: int = NEW_TOKENS,
    rounds: int = ROUNDS,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[StepProfile]:
    """Yield the profile of each context length, for sampled tokens.

    The columns take turns within a round; one more round, the first, warms up and is not counted.
    The prompt is cached. Timing the parts adds about a microsecond for each call of one.
    """
    read_gb_s = _read_gb_s()
    linear = [each for each in lm.model.modules() if isinstance(each, torch.nn.Linear)]
    for context in contexts:
        ids = prompt_ids(lm.tokenizer, context)
        with (
            open_file_store(folder / f"profile-{context}.db") as store,
            ForwardTimer(lm.model) as forwards,
        ):
            ours = TokentapeEngine(lm, forwards, store)
            theirs = _CachedGenerate(GenerateEngine(lm, forwards), ids)
            steps: dict[str, list[dict[str, float]]] = {column: [] for column in COLUMNS}
            for number in range(rounds + 1):
                for column in COLUMNS if number % 2 else reversed(COLUMNS):
                    run = theirs.time_reply if column == GENERATE else ours.time_reply
                    within = column != TRACED
                    taken = _time_steps(lm, run, ids, new_tokens, within_forwards=within)
                    if number:
                        steps[column] += taken
                tick()
        yield StepProfile(
            context_tokens=context,
            parts_ms={column: _median_parts(each) for column, each in steps.items()},
            step_ms={column: _median_step(each) for column, each in steps.items()},
            weight_bytes=sum(each.weight.nbytes for each in linear),
            read_gb_s=read_gb_s,
        )


class _CachedGenerate:
    """`generate` with a cache that holds all of a prompt but its last token, in every call."""

    def __init__(self, engine: GenerateEngine, ids: list[int]) -> None:
        self._engine = engine
        engine.time_reply(ids[:-1], 1, reuse_cache=True, do_sample=False)
        self._prompt_cache = engine.cache

    def time_reply(self, ids: Sequence[int], new_tokens: int, **settings: object) -> TimedReply:
        self._engine.cache = self._prompt_cache
        self._engine.cache = self._engine.copy_of_cache()
        return self._engine.time_reply(ids, new_tokens, reuse_cache=True, **settings)


def _time_steps(
    lm: tt.LoadedModel,
    run: Callable[..., TimedReply],
    ids: list[int],
    new_tokens: int,
    *,
    within_forwards: bool,
) -> list[dict[str, float]]:
    """Return the parts of the decoding steps of a reply, from one forward to the next."""
    with timing_steps(lm.model, within_forwards=within_forwards) as clock:
        run(ids, new_tokens, **SAMPLERS[_SAMPLER])
        # A step ends where the next forward begins. The first ones of a turn are never traced.
        return clock.take_steps()[-(new_tokens // 2) :]


def _median_parts(steps: Sequence[dict[str, float]]) -> dict[str, float]:
    return {part: median(step.get(part, 0.0) for step in steps) for part in PARTS}


def _median_step(steps: Sequence[dict[str, float]]) -> float:
    return median(sum(step.values()) for step in steps)


def _read_gb_s() -> float:
    """Return the gigabytes a second at which one pass reads a tensor that no cache can hold."""
    tensor = torch.ones(_READ_BYTES // 4)
    clock = step_clock()
    taken = []
    for _ in range(_READ_REPEATS):
        began = clock()
        tensor.sum()
        taken.append(clock() - began)
    return _READ_BYTES / median(taken) / 1e9


def profile_table(profiles: Sequence[StepProfile]) -> Table:
    """Return a table with a row for each part, and a column for each way and context length."""
    table = Table("ms of a step", box=None)
    cells = [(each, column) for each in profiles for column in COLUMNS]
    for each, column in cells:
        table.add_column(f"{each.context_tokens:,}\n{column}", justify="right")
    for part in PARTS:
        times = [each.parts_ms[column][part] for each, column in cells]
        table.add_row(part, *(f"{ms:.2f}" if ms else "" for ms in times))
    table.add_section()
    table.add_row("whole step", *(f"{each.step_ms[column]:.1f}" for each, column in cells))
    return table


def speed_line(profiles: Sequence[StepProfile]) -> str:
    """Return a line that compares the linear layers with the speed of the memory."""
    first = profiles[0]
    least_ms = first.weight_bytes / first.read_gb_s / 1e6
    reached = ", ".join(f"{each.linear_gb_s:.1f}" for each in profiles)
    return (
        f"a step reads {first.weight_bytes / 1e6:,.0f} MB of weights: {least_ms:.1f} ms at the "
        f"{first.read_gb_s:.1f} GB/s of adding up a tensor; the linear layers reach {reached} GB/s"
    )
