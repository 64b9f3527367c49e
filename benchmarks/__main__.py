"""`python -m benchmarks`: the commands, and what they print and exit with.

Exit codes: 0 measured, 1 a claim of equality does not hold, 2 it cannot be measured here.
"""

import sqlite3
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer

import tokentape as tt
from benchmarks import conversation as talk
from benchmarks import decode as decoding
from benchmarks import (
    parity_table,
    prefill_memory,
    replay_commands,
    row_frames,
    store_table,
    storing,
    tables,
    watching,
)
from benchmarks import prefill as prefilling
from benchmarks.options import JsonOption, demo_model, ticking
from benchmarks.parity import CONFIGS, DTYPES, STARTS, run_matrix
from benchmarks.report import Report, reported
from benchmarks.restart import measure_restart
from benchmarks.rivals.environment import cache_folder
from benchmarks.tiny_models import FAMILIES
from benchmarks.workload import TURN_TOKENS, TURNS, Workload, make_workload

app = typer.Typer(
    name="benchmarks",
    help="What tokentape costs and saves, measured side by side with others.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RoundsOption = Annotated[int, typer.Option(min=1, help="How often both sides are timed.")]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of torch; fewer than cores where the machine is shared."),
    ] = None,
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    if not sys.warnoptions:
        # What libraries warn of is for those who write code, and would stand between the tables.
        warnings.simplefilter("ignore")
        log: Any = transformers.logging
        log.set_verbosity_error()
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


@app.command()
def parity(
    family: Annotated[list[str] | None, typer.Option(help="Only this family of models.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="float32 or bfloat16 only.")] = None,
    json_path: JsonOption = None,
) -> None:
    """The engine against `generate`: every cache, every sampler, every way to start."""
    families = _known(family, list(FAMILIES), "family")
    dtypes = _known(dtype, list(DTYPES), "dtype")
    count = len(families) * len(dtypes) * len(CONFIGS) * len(STARTS)
    with reported(json_path) as report:
        with ticking("parity", count) as tick:
            cells = []
            for cell in run_matrix(families, dtypes):
                cells.append(cell)
                tick()
        report.show(parity_table.parity_table(cells))
        failed = [each for each in cells if not each.passes]
        total = parity_table.tally(cells)
        report.say(f"\n{len(cells)} cells: {total}; {len(failed)} do not pass")
        report.keep("parity", parity_table.described(cells))
    for each in failed:
        sys.stderr.write(f"does not pass: {parity_table.in_short(each)}\n")
    raise typer.Exit(1 if failed else 0)


@app.command()
def prefill(json_path: JsonOption = None) -> None:
    """Tokens forwarded over 20 turns, and the memory of a prefill: the plan's before and after."""
    system, turn_3 = prefilling.SYSTEM_TOKENS, prefilling.TURN_3_TOKENS
    with reported(json_path) as report:
        report.say(
            f"a prompt grows by ({turn_3:,} - {system:,}) / 3 = {(turn_3 - system) / 3:,.0f} "
            f"tokens a turn, from a system prompt of {system:,} to {turn_3:,} at turn 3"
        )
        with ticking("forwarded", prefilling.TURNS * len(prefilling.WAYS)) as tick:
            lengths, ways = prefilling.measure_forwarded(tick=tick)
        report.show(tables.forwarded_table(lengths, ways))
        report.show(tables.plan_table(lengths, ways))
        report.keep("forwarded", [asdict(each) | {"total": each.total} for each in ways])
        unequal = [each.way for each in ways if each.recorded != each.total]
        report.say(f"\nforwarded and recorded agree: {'NO: ' + str(unequal) if unequal else 'yes'}")
        _show_memory(report, torch.device("cpu"))
    raise typer.Exit(1 if unequal else 0)


@app.command()
def decode(
    rounds: RoundsOption = decoding.ROUNDS,
    new_tokens: Annotated[int, typer.Option(min=3, help="In a round.")] = decoding.NEW_TOKENS,
    json_path: JsonOption = None,
) -> None:
    """The time of a token, recorded into SQLite, against `generate`."""
    with reported(json_path) as report:
        same = _show_decode(report, demo_model("cpu"), rounds, new_tokens)
    raise typer.Exit(0 if same else 1)


@app.command()
def conversation(
    turns: Annotated[int, typer.Option(min=2)] = talk.TURNS,
    fresh_turns: Annotated[
        int, typer.Option(min=0, help="Turns of `generate` with nothing carried over, timed.")
    ] = talk.FRESH_TURNS,
    json_path: JsonOption = None,
) -> None:
    """20 turns behind a long system prompt: tokentape, a cache carried by hand, and none."""
    with reported(json_path) as report, tempfile.TemporaryDirectory() as folder:
        lm = demo_model("cpu")
        with ticking("turns", turns) as tick:
            figures = talk.measure_conversation(
                lm, Path(folder), turns=turns, fresh_turns=fresh_turns, tick=tick
            )
        report.show(tables.conversation_table(figures))
        ours, uncached = sum(figures.ours.prefill_tokens), sum(figures.prompt_tokens)
        report.say(
            f"\nprompts of all {turns} turns: {uncached:,} tokens, "
            f"{uncached / ours:.1f} times the {ours:,} that are forwarded"
        )
        report.say(f"same tokens as the cache carried by hand: {figures.same_tokens}")
        report.say(f"same tokens as nothing carried: {figures.same_tokens_as_fresh}")
        report.keep("conversation", asdict(figures))
        with ticking("processes", 2) as tick:
            begun = measure_restart(
                Path(folder) / "prefixes",
                model=lm.name,
                system_tokens=talk.SYSTEM_TOKENS,
                new_tokens=talk.NEW_TOKENS,
                tick=tick,
            )
        report.show(tables.restart_table(begun))
        restored = begun[0].token_ids == begun[1].token_ids
        report.say(f"\nsame tokens behind the restored system prompt: {restored}")
        report.keep("restart", [asdict(each) for each in begun])
    same = figures.same_tokens and figures.same_tokens_as_fresh and restored
    raise typer.Exit(0 if same else 1)


@app.command()
def store(
    rounds: RoundsOption = storing.ROUNDS,
    rows: Annotated[int, typer.Option(min=0, help="For pandas; 0 for none.")] = row_frames.ROWS,
    rivals: Annotated[
        bool, typer.Option("--rivals/--no-rivals", help="Install and measure Inspect and MLflow.")
    ] = True,
    environments: Annotated[
        Path | None, typer.Option(help="Where rivals are installed; else in the user's cache.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """What it costs to keep a token: tokentape, a bare SQLite loop, Inspect AI and MLflow."""
    same = True
    with reported(json_path) as report, tempfile.TemporaryDirectory() as folder:
        lm = demo_model("cpu")
        workload = make_workload(lm)
        keepers = storing.keepers_of(workload)
        missing: dict[str, str] = {}
        if rivals:
            others, missing = storing.rivals_of(
                workload,
                lm.tokenizer,
                Path(folder),
                environments=environments or cache_folder(),
                say=_say_aside,
            )
            keepers |= others
        _show_kept(report, keepers, missing, Path(folder), workload.tokens, rounds)
        if rows:
            same = _show_frames(report, lm, workload, Path(folder), rows)
    raise typer.Exit(0 if same else 1)


@app.command()
def watch(
    rounds: RoundsOption = watching.ROUNDS,
    new_tokens: Annotated[int, typer.Option(min=3, help="In a round.")] = watching.NEW_TOKENS,
    json_path: JsonOption = None,
) -> None:
    """What a monitor on four layers costs a token."""
    with reported(json_path) as report:
        lm = demo_model("cpu")
        with ticking("rounds", rounds + 1) as tick:
            figures = watching.measure_watching(lm, new_tokens=new_tokens, rounds=rounds, tick=tick)
        report.show(watching.watch_table(figures))
        report.say(f"\nsame tokens: {figures.same_tokens}")
        report.keep("watch", asdict(figures))
    raise typer.Exit(0 if figures.same_tokens else 1)


app.command()(replay_commands.replay)
app.command()(replay_commands.faults)


@app.command()
def cuda(
    rounds: RoundsOption = decoding.ROUNDS,
    new_tokens: Annotated[int, typer.Option(min=3, help="In a round.")] = decoding.NEW_TOKENS,
    json_path: JsonOption = None,
) -> None:
    """Decode and prefill memory on a GPU."""
    if not torch.cuda.is_available():
        sys.stderr.write("benchmarks: torch finds no CUDA device here\n")
        raise typer.Exit(2)
    with reported(json_path) as report:
        same = _show_decode(report, demo_model("cuda"), rounds, new_tokens)
        _show_memory(report, torch.device("cuda"))
    raise typer.Exit(0 if same else 1)


def _show_decode(report: Report, lm: tt.LoadedModel, rounds: int, new_tokens: int) -> bool:
    """Whether both sides said the same tokens."""
    contexts = (decoding.SHORT_TOKENS, decoding.LONG_TOKENS)
    count = len(contexts) * 2 * (rounds + 1)
    with tempfile.TemporaryDirectory() as folder, ticking("rounds", count) as tick:
        figures = list(
            decoding.measure_decode(
                lm,
                Path(folder),
                contexts=contexts,
                new_tokens=new_tokens,
                rounds=rounds,
                tick=tick,
            )
        )
    decodings = [each for figure in figures for each in figure.decodings]
    report.show(tables.decode_table(decodings))
    report.show(tables.cost_table(list(zip(contexts, (f.cost for f in figures), strict=True))))
    report.keep("decode", [asdict(each) for each in figures])
    return all(each.same_tokens for each in decodings)


def _show_kept(
    report: Report,
    keepers: dict[str, storing.Keep],
    missing: dict[str, str],
    folder: Path,
    tokens: int,
    rounds: int,
) -> None:
    report.say(
        f"{TURNS} turns of {TURN_TOKENS} tokens, five candidates each, the same for everybody; "
        f"SQLite {sqlite3.sqlite_version}"
    )
    with ticking("rounds", len(keepers) * (rounds + 1)) as tick:
        figures = storing.measure_store(
            keepers, folder, tokens=tokens, rounds=rounds, missing=missing, tick=tick
        )
    report.show(store_table.time_table(figures))
    report.show(store_table.bytes_table(figures))
    report.say(
        "\nfloat32: where candidates come as models give them, to those who do not round them"
    )
    report.keep("store", store_table.described(figures))


def _show_frames(
    report: Report, lm: tt.LoadedModel, workload: Workload, folder: Path, rows: int
) -> bool:
    """Whether both stores give the same rows."""
    live, sealed = folder / "rows.db", folder / "rows"
    _say_aside(f"recording {rows:,} tokens and sealing them takes minutes")
    with ticking("turns", -(-rows // TURN_TOKENS)) as tick:
        written = row_frames.write_rows(workload, lm.tokenizer, live, sealed, rows=rows, tick=tick)
    figures, same = row_frames.measure_frames(live, sealed)
    report.show(store_table.frames_table(figures))
    report.say(
        f"\n{rows:,} tokens were recorded in {written.record_seconds:.0f} s "
        f"and sealed in {written.seal_seconds:.0f} s; same frame from both: {same}"
    )
    report.keep("frames", [asdict(each) for each in figures])
    report.keep("written", asdict(written))
    return same


def _say_aside(line: str) -> None:
    sys.stderr.write(f"benchmarks: {line}\n")


def _show_memory(report: Report, device: torch.device) -> None:
    system, turn_3 = prefilling.SYSTEM_TOKENS, prefilling.TURN_3_TOKENS
    prefills = prefill_memory.turn_3(system_tokens=system, prompt_tokens=turn_3)
    report.say(f"\nturn 3, one layer of {prefills[0].model()}")
    with ticking("memory", len(prefills)) as tick:
        figures = []
        for each in prefills:
            figures.append(prefill_memory.measure_transient(each, device))
            tick()
    report.show(tables.transient_table(figures))
    report.say()
    for line in tables.score_sums(system, turn_3, prefill_memory.HEADS):
        report.say(line)
    report.keep(
        "memory", [asdict(each) | {"transient_bytes": each.at_full_heads} for each in figures]
    )


def _known(asked: list[str] | None, known: list[str], what: str) -> list[str]:
    for each in asked or ():
        if each not in known:
            raise typer.BadParameter(f"no such {what}: {each!r}; there are {', '.join(known)}")
    return asked or known


if __name__ == "__main__":
    app()
