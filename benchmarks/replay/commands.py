"""Commands that measure replays: their time, and the faults that they find."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

import tokentape as tt
from benchmarks.options import JsonOption, RoundsOption, demo_model, ticking
from benchmarks.replay import dtypes, fault_table, retraces, timings
from benchmarks.replay.fault_case import record_case
from benchmarks.replay.faults import FAULTS, FaultResult, check_fault
from benchmarks.report import Report, open_report
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tokentape.store import DatabaseStore


def replay_command(
    recorded: Annotated[
        Path | None,
        typer.Option(
            "--store", help="Replay the newest run of this store; without it, run the demo."
        ),
    ] = None,
    verifications: Annotated[int, typer.Option(min=1)] = timings.VERIFICATIONS,
    retrace_rounds: Annotated[
        int, typer.Option(min=0, help="How often the demo is generated and retraced in 16 bits.")
    ] = 2,
    only_retraces: Annotated[
        bool, typer.Option("--only-retraces", help="Leave verify and regenerate out.")
    ] = False,
    json_path: JsonOption = None,
) -> None:
    """Time verify, retrace and regenerate over the demo's 20 turns."""
    passes = True
    with open_report(json_path) as report:
        if not only_retraces:
            figures = _measure_replays(recorded, verifications)
            _report_replays(report, figures)
            passes = figures.passes
        if retrace_rounds:
            lm = tt.load_model("smollm2-demo", dtype="bfloat16")
            with ticking("retraces", 2 * retrace_rounds + retraces.CHANGES) as tick:
                retraced = retraces.measure_retraces(lm, rounds=retrace_rounds, tick=tick)
            _report_retraces(report, retraced)
            passes &= retraced.passes
    raise typer.Exit(0 if passes else 1)


def _measure_replays(recorded: Path | None, verifications: int) -> timings.ReplayFigures:
    lm = demo_model("cpu")
    with (
        tempfile.TemporaryDirectory() as folder,
        tt.open_store(recorded or Path(folder) / "demo.db", must_exist=bool(recorded)) as store,
    ):
        if recorded is not None:
            recording = store.recording(store.summaries()[-1].run_id)
        else:
            assert isinstance(store, DatabaseStore)
            recording = timings.record_demo(lm, store)
        count = len(recording.turns()) + verifications
        with ticking("replays", count) as tick:
            return timings.measure_replays(recording, lm, verifications=verifications, tick=tick)


def faults_command(
    model: Annotated[
        list[str] | None,
        typer.Option(help="tiny, or any model that tokentape loads; may be repeated."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of each of the four turns.")] = 16,
    docs: Annotated[
        Path | None, typer.Option("--update", help="Replace the tables in this page.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Show the verdict and the cause of each injected fault: verified, and retraced in 16 bits."""
    wrong: list[FaultResult] = []
    with open_report(json_path) as report:
        for name in model or ["tiny", "smollm2-demo"]:
            results = _inject_all(_model(name, "float32"), name, tokens, tt.verify)
            report.print(f"\n{name}, four turns of {tokens} tokens, verified in float32")
            report.show(fault_table.fault_table(results))
            report.add(f"faults of {name}", fault_table.to_json(results))
            retraced = {}
            for dtype in ("bfloat16", "float16"):
                found = _inject_all(_model(name, dtype), f"{name} {dtype}", tokens, tt.retrace)
                report.print(f"\n{name}, the same turns in {dtype}, retraced")
                report.show(fault_table.retrace_table(found))
                report.add(f"faults of {name} in {dtype}", fault_table.retrace_json(found))
                retraced[dtype] = found
            everything = [*results, *(each for found in retraced.values() for each in found)]
            wrong += [each for each in everything if not each.is_right]
            if docs is not None:
                fault_table.update_docs(docs, name, fault_table.verify_lines(results))
                lines = fault_table.retrace_lines(retraced)
                fault_table.update_docs(docs, f"{name} in 16 bits", lines)
        report.print(f"\n{len(wrong)} wrong")
    raise typer.Exit(1 if wrong else 0)


def _model(name: str, dtype: str) -> tt.LoadedModel:
    if name == "tiny":
        return tiny_model("llama", byte_tokenizer(), dtype=getattr(torch, dtype))
    return tt.load_model(name, dtype=dtype)


def _inject_all(
    lm: tt.LoadedModel, name: str, tokens: int, replay: Callable[..., tt.Report]
) -> list[FaultResult]:
    """Record a case and replay it with each fault in turn."""
    case = record_case(lm, tokens=tokens)
    results = []
    with ticking(name, len(FAULTS)) as tick:
        for fault in FAULTS:
            results.append(check_fault(fault, case, replay))
            tick()
    return results


def dtypes_command(
    model: Annotated[str, typer.Option(help="A model that tokentape loads.")] = "smollm2-demo",
    turns: Annotated[int, typer.Option(min=1)] = dtypes.TURNS,
    rounds: RoundsOption = dtypes.ROUNDS,
    json_path: JsonOption = None,
) -> None:
    """Compare float32, bfloat16, and bfloat16 computed in float32."""
    with open_report(json_path) as report, tempfile.TemporaryDirectory() as folder:
        models = {
            name: tt.load_model(model, **keywords) for name, keywords in dtypes.PRECISIONS.items()
        }
        with ticking("rounds and runs", len(models) * (rounds + 1)) as tick:
            figures = dtypes.measure_precisions(
                models, Path(folder), turns=turns, rounds=rounds, tick=tick
            )
        report.show(_precision_table(figures))
        report.add("precisions", [asdict(each) for each in figures])
        equal = dtypes.computes_what_the_weights_cast_whole_compute(
            models["bfloat16 in float32"], models["bfloat16"]
        )
        report.print(
            "\nlogits equal those of the bfloat16 weights cast whole, bit for bit: "
            f"{'yes' if equal else 'NO'}"
        )
        report.add("equal bits", equal)
    raise typer.Exit(0 if equal else 1)


def _precision_table(figures: list[dtypes.PrecisionFigures]) -> Table:
    """Return a table with a column for each precision."""
    table = Table("", *(each.name for each in figures), box=None)
    whole = figures[0].weights_bytes
    for heading, cell in (
        ("weights", lambda each: f"{each.weights_bytes / 1e6:.1f} MB"),
        ("of float32", lambda each: f"{each.weights_bytes / whole:.3f}"),
        ("largest cast", lambda each: f"{each.cast_bytes / 1e6:.1f} MB" if each.cast_bytes else ""),
        ("KV cache of 1,000 tokens", lambda each: f"{each.kv_bytes_per_token / 1e3:.1f} MB"),
        # The least of the rounds: other work on a shared machine only adds to it.
        ("step", lambda each: f"{min(each.step_ms):.1f} ms"),
        ("prefill of 512", lambda each: f"{min(each.prefill_s):.2f} s"),
        ("tokens recorded", lambda each: str(each.tokens)),
        ("verify", lambda each: each.verify),
        ("floor", lambda each: each.floor),
        ("largest difference", lambda each: f"{each.worst_nats:.2g} nats"),
        ("other picks", lambda each: str(each.flips)),
        ("regenerate", lambda each: each.regenerate),
        ("retrace", lambda each: each.retrace),
    ):
        table.add_row(heading, *(cell(each) for each in figures))
    return table


def _report_replays(report: Report, figures: timings.ReplayFigures) -> None:
    report.show(_replay_table(figures))
    report.print(f"\nrebuild    {figures.rebuild_s:.2f} s, from events alone")
    report.print(f"generate   {figures.generate_s:.1f} s when it was recorded, with its cache")
    times = ", ".join(f"{each:.1f}" for each in figures.verifications_s)
    report.print(f"verify     {figures.verify_s:.1f} s, {figures.verdict} (median of {times})")
    ratio = figures.regenerate_s / figures.verify_s
    report.print(
        f"regenerate {figures.regenerate_s:.1f} s: verify is {ratio:.1f} times faster, and "
        f"{figures.generate_s / figures.verify_s:.1f} times faster than generating"
    )
    report.add("replay", asdict(figures))


def _report_retraces(report: Report, figures: retraces.RetraceFigures) -> None:
    report.print(f"\nthe demo's 20 turns in {figures.dtype}, {figures.tokens:,} tokens\n")
    table = Table("recording", "generated s", "its turns s", "retraced s", "verdict", box=None)
    seconds = zip(figures.generated_s, figures.turns_s, figures.retraced_s, strict=True)
    for number, (times, verdict) in enumerate(zip(seconds, figures.verdicts, strict=True), 1):
        table.add_row(str(number), *(f"{value:.1f}" for value in times), verdict)
    report.show(table)
    report.print(
        f"\nretracing takes {figures.ratio:.2f} of the time of generating, "
        f"{figures.turns_ratio:.2f} of that of its turns alone (medians)\n"
    )
    changes = Table("change", "in turn", "first turn that differs", "verdict", "cause", box=None)
    for each in figures.changes:
        found = "none" if each.found_turn is None else str(each.found_turn)
        changes.add_row(each.change, str(each.turn), found, each.verdict, each.cause)
    report.show(changes)
    report.add("retrace", asdict(figures))


def _replay_table(figures: timings.ReplayFigures) -> Table:
    """Return a table with a row for each turn."""
    table = Table("turn", "sampler", box=None)
    for heading in ("prompt", "tokens", "generated s", "regenerated s"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for each in figures.turns:
        table.add_row(
            str(each.turn),
            "sampled" if each.sampled else "greedy",
            f"{each.prompt_tokens:,}",
            str(each.tokens),
            f"{each.generated_s:.1f}",
            f"{each.regenerated_s:.1f}",
            each.verdict,
        )
    return table
