"""The demo: 20 turns about the model's own weights, recorded, rebuilt and replayed."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import tokentape as tt
from tokentape import output
from tokentape.commands.investigations import resume_hint
from tokentape.commands.options import load_named_model
from tokentape.commands.tool_files import options_to_resume
from tokentape.generation.plans import ExperimentPlan, load_plan
from tokentape.recorder.events import SystemPromptCached
from tokentape.recorder.projections import Turn
from tokentape.replay.reports.terminal import render
from tokentape.screen import out
from tokentape.store import DatabaseStore, ParquetStore
from tokentape.turns_bar import plan_bar

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords

REGENERATED_TURNS = (2, 7, 18)
"""A sampled turn, a greedy one, and a late one; turns that a plan does not have are left out."""


def run_demo(
    store_url: str,
    sealed: Path,
    model: str,
    plan_name: str,
    regenerated: Sequence[int],
    loading: "LoadingKeywords",
) -> int:
    """Record a plan, seal the run and replay it; return the exit code, 1 if a replay failed."""
    plan = load_plan(plan_name)
    turns_total = len(plan.turns())
    beyond = [number for number in regenerated if number > turns_total]
    if beyond:
        raise tt.PromptError(f"there is no turn {beyond[0]}: {plan.name} has {turns_total} turns")
    if not regenerated:
        regenerated = [number for number in REGENERATED_TURNS if number <= turns_total]
    lm = load_named_model(model, loading, note=" (the first time takes half a minute)")
    from tokentape.generation.plans import check_plan

    check_plan(plan, lm)
    with tt.open_store(store_url) as store:
        if isinstance(store, ParquetStore):
            raise tt.StoreError(f"{store_url} is a folder of sealed runs: record into a database")
        with resume_hint(store_url, options_to_resume(loading, None)) as begun:
            run_id, replies, record_s = record_plan(lm, store, plan, begun)
        recording = store.recording(run_id)
        turns = recording.turns()
        out.show(output.turns_table(turns))
        out.lines(["", _totals(turns, recording)])
        files = tt.export_parquet(recording, store, sealed)
        size = sum(file.stat().st_size for file in files)
        out.lines(["", f"recorded  {store_url}, run {run_id}"])
        out.lines([f"sealed    {sealed}, {size / 1000:.0f} kB of Parquet", ""])
        passed = _rebuild(recording, tt.open_store(sealed), replies)
        passed &= _verify(recording, lm)
        passed &= _regenerate(recording, lm, regenerated)
    out.lines(["", f"generating took {record_s:.1f} s; all replays pass: {passed}"])
    return 0 if passed else 1


def record_plan(
    lm: "tt.LoadedModel",
    store: DatabaseStore,
    plan: ExperimentPlan,
    begun: Callable[[str], None] = lambda run_id: None,
) -> "tuple[str, Sequence[tt.Reply], float]":
    """Run a plan with a progress bar; return the run's id, its replies, and the seconds taken.

    `begun` is called with the id before the run begins.
    """
    from tokentape.generation.plans import begin_plan, run_plan

    began = time.perf_counter()
    investigation = begin_plan(plan, lm, store)
    begun(investigation.run_id)
    with plan_bar(plan) as bar, investigation:
        replies = run_plan(
            investigation,
            plan,
            progress=lambda turn, reply: bar.turn(reply),
            callback=bar.token,
        )
    return investigation.run_id, replies, time.perf_counter() - began


def _totals(turns: Sequence[Turn], recording: tt.Recording) -> str:
    systems = (e.event for e in recording.events() if isinstance(e.event, SystemPromptCached))
    system_tokens = sum(len(event.ids) for event in systems)
    without = sum(len(turn.prompt_ids) for turn in turns)
    computed = system_tokens + sum(turn.cache.computed_tokens for turn in turns if turn.cache)
    return (
        f"prompt tokens processed: {computed:,} with reuse (the {system_tokens:,} of the system "
        f"prompt once), {without:,} without: {without / computed:.1f} times fewer"
    )


def _rebuild(
    recording: tt.Recording,
    sealed: DatabaseStore | ParquetStore,
    replies: "Sequence[tt.Reply]",
) -> bool:
    began = time.perf_counter()
    rebuilt = tt.rebuild(recording)
    spent = time.perf_counter() - began
    said = [(turn.reply_ids, turn.reply_text) for turn in rebuilt.turns]
    same = said == [(reply.token_ids, reply.text) for reply in replies]
    copy = list(sealed.recording(recording.run_id).events()) == list(recording.events())
    out.line(
        f"rebuild     {'same ids and text' if same else 'DIFFERS from what was said':<20}"
        f"{len(rebuilt.turns)} turns from events alone in {spent:.2f} s; "
        f"the sealed copy {'is equal' if copy else 'DIFFERS'}"
    )
    return same and copy


def _verify(recording: tt.Recording, lm: "tt.LoadedModel") -> bool:
    with output.progress("verify") as bar:
        task = bar.add_task("", total=None)
        report = tt.verify(
            recording,
            lm,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    seconds, generation_s = report.duration_us / 1e6, report.generation_us / 1e6
    out.line(
        f"verify      {report.verdict:<20}{len(report.turns)} turns in one forward in "
        f"{seconds:.1f} s, {generation_s / seconds:.1f} times faster than their generation"
    )
    if not report.passes:
        out.text(f"{render(report)}\n")
    return report.passes


def _regenerate(recording: tt.Recording, lm: "tt.LoadedModel", numbers: Sequence[int]) -> bool:
    passed = True
    for number in numbers:
        with output.working(f"regenerating turn {number} with Hugging Face generate"):
            report = tt.regenerate(recording, lm, turns=[number])
        turn = report.turns[0]
        sampling = "sampled" if turn.sampled else "greedy"
        out.line(
            f"regenerate  {report.verdict:<20}turn {number} ({sampling}, {turn.tokens} tokens) in "
            f"{report.duration_us / 1e6:.1f} s, recorded in {report.generation_us / 1e6:.1f} s"
        )
        if not report.passes:
            out.text(f"{render(report)}\n")
        passed &= report.passes
    return passed
