"""Commands that measure replays: what they cost, and which faults they find."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import tokentape as tt
from benchmarks import fault_table, replaying, tables
from benchmarks.faults import FAULTS, find, record_case
from benchmarks.options import JsonOption, demo_model, ticking
from benchmarks.report import reported
from benchmarks.tiny_models import byte_tokenizer, tiny_model
from tokentape.store import DatabaseStore


def replay(
    recorded: Annotated[
        Path | None,
        typer.Option("--store", help="A store whose newest run is replayed; else the demo is run."),
    ] = None,
    verifications: Annotated[int, typer.Option(min=1)] = replaying.VERIFICATIONS,
    json_path: JsonOption = None,
) -> None:
    """Verify against regenerate, over the demo's 20 turns, side by side."""
    with reported(json_path) as report, tempfile.TemporaryDirectory() as folder:
        lm = demo_model("cpu")
        with tt.open_store(
            recorded or Path(folder) / "demo.db", must_exist=bool(recorded)
        ) as store:
            if recorded is not None:
                recording = store.recording(store.summaries()[-1].run_id)
            else:
                assert isinstance(store, DatabaseStore)
                recording = replaying.record_demo(lm, store)
            count = len(recording.turns()) + verifications
            with ticking("replays", count) as tick:
                figures = replaying.measure_replays(
                    recording, lm, verifications=verifications, tick=tick
                )
        report.show(tables.replay_table(figures))
        report.say(f"\nrebuild   {figures.rebuild_s:.2f} s, from events alone")
        report.say(f"generate  {figures.generate_s:.1f} s when it was recorded, with its cache")
        said = ", ".join(f"{each:.1f}" for each in figures.verifications_s)
        report.say(f"verify    {figures.verify_s:.1f} s, {figures.verdict} (median of {said})")
        ratio = figures.regenerate_s / figures.verify_s
        report.say(
            f"regenerate {figures.regenerate_s:.1f} s: verify is {ratio:.1f} times faster, and "
            f"{figures.generate_s / figures.verify_s:.1f} times faster than generating"
        )
        report.keep("replay", asdict(figures))
    raise typer.Exit(0 if figures.passes else 1)


def faults(
    model: Annotated[
        list[str] | None, typer.Option(help="tiny, or what `load_model` takes; may be repeated.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, help="In each of the four turns.")] = 16,
    docs: Annotated[
        Path | None, typer.Option("--update", help="Put the tables into this page.")
    ] = None,
    json_path: JsonOption = None,
) -> None:
    """Faults injected one at a time: which verdict, and which cause."""
    wrong = []
    with reported(json_path) as report:
        for name in model or ["tiny", "smollm2-demo"]:
            lm = tiny_model("llama", byte_tokenizer()) if name == "tiny" else tt.load_model(name)
            case = record_case(lm, tokens=tokens)
            with ticking(name, len(FAULTS)) as tick:
                found = []
                for fault in FAULTS:
                    found.append(find(fault, case))
                    tick()
            report.say(f"\n{name}, four turns of {tokens} tokens")
            report.show(fault_table.fault_table(found))
            report.keep(f"faults of {name}", fault_table.described(found))
            wrong += [each for each in found if not each.is_right]
            if docs is not None:
                fault_table.update_docs(docs, name, found)
        report.say(f"\n{len(wrong)} wrong")
    raise typer.Exit(1 if wrong else 0)
