"""Commands that compare decoding with other engines: `peers` and `batch`."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.options import JsonOption, demo_model, ticking
from benchmarks.peers import measure, tables
from benchmarks.peers.bandwidth import weight_bytes
from benchmarks.peers.llama_cpp import demo_gguf
from benchmarks.peers.workload import NEW_TOKENS
from benchmarks.report import open_report
from benchmarks.rivals.environment import cache_folder

SEQUENCES = (1, 8, 16, 32)
_PLAN_SEEDS = tuple(range(1, 9))
_ENGINES = 6
RoundsOfAll = Annotated[int, typer.Option(min=1, help="Rounds in which every engine runs once.")]
TokensOption = Annotated[int, typer.Option(min=8, help="New tokens of each sequence.")]
HomeOption = Annotated[
    Path | None, typer.Option("--environments", help="Folder to install llama.cpp into.")
]


def peers_command(
    rounds: RoundsOfAll = 5,
    new_tokens: TokensOption = NEW_TOKENS,
    home: HomeOption = None,
    json_path: JsonOption = None,
) -> None:
    """Time a decoding step of one sequence in other engines, and reading the weights once."""
    with open_report(json_path) as report, tempfile.TemporaryDirectory() as folder:
        lm = demo_model("cpu")
        llama = measure.LlamaEngines.install(home or cache_folder(), _notify)
        with ticking("engines", rounds * _ENGINES) as tick:
            measured = measure.measure_single(
                lm, llama, Path(folder), new_tokens=new_tokens, rounds=rounds, tick=tick
            )
        report.show(tables.engines_table(measured, f"one sequence, {new_tokens} new tokens"))
        size = weight_bytes(lm)
        once_ms = [each.step_ms for each in measured.times[measure.WEIGHTS]]
        speeds = [size / each / 1e6 for each in once_ms if each]
        report.print(
            f"\nweights: {size / 1e6:.0f} MB in float32, "
            f"{demo_gguf().stat().st_size / 1e6:.0f} MB in Q4_1; "
            f"{min(speeds):.1f} to {max(speeds):.1f} GB/s with one thread"
        )
        report.add("peers", tables.to_json(measured))


def batch_command(
    sequences: Annotated[
        list[int] | None, typer.Option(min=1, help="How many at once; may be repeated.")
    ] = None,
    rounds: RoundsOfAll = 3,
    new_tokens: TokensOption = NEW_TOKENS,
    plan_turns: Annotated[
        int, typer.Option(min=0, help="Turns of the demo's plan with eight seeds; 0 skips it.")
    ] = 3,
    plan_tokens: Annotated[int, typer.Option(min=1, help="New tokens of a turn.")] = 16,
    home: HomeOption = None,
    json_path: JsonOption = None,
) -> None:
    """Time many sequences at once, recorded, against padded `generate` and other engines."""
    with open_report(json_path) as report, tempfile.TemporaryDirectory() as folder:
        lm = demo_model("cpu")
        llama = measure.LlamaEngines.install(home or cache_folder(), _notify)
        figures = {}
        for count in sequences or SEQUENCES:
            with ticking(f"{count} at once", rounds * (_ENGINES - 1)) as tick:
                measured = measure.measure_decode_at_once(
                    lm,
                    llama,
                    Path(folder),
                    sequences=count,
                    new_tokens=new_tokens,
                    rounds=rounds,
                    tick=tick,
                )
            report.show(tables.engines_table(measured, f"{count} at once, {new_tokens} new tokens"))
            figures[str(count)] = tables.to_json(measured)
        report.add("decode", figures)
        if plan_turns:
            with ticking("plans", rounds * 2) as tick:
                measured = measure.measure_plans_at_once(
                    lm,
                    Path(folder),
                    seeds=_PLAN_SEEDS,
                    turns=plan_turns,
                    new_tokens=plan_tokens,
                    rounds=rounds,
                    tick=tick,
                )
            title = f"{plan_turns} turns of the demo, {len(_PLAN_SEEDS)} seeds"
            report.show(tables.engines_table(measured, title))
            report.add("plans", tables.to_json(measured))


def _notify(line: str) -> None:
    sys.stderr.write(f"benchmarks: {line}\n")
