"""The demo: 20 turns about the model's own weights, recorded, rebuilt and replayed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tokentape as tt
from tokentape import output
from tokentape.commands.investigations import resume_hint
from tokentape.commands.options import load_named_model
from tokentape.commands.stored_results import store_verdict
from tokentape.commands.tool_files import options_to_resume
from tokentape.generation.plans import ExperimentPlan, load_plan
from tokentape.recorder.events import SystemPromptCached
from tokentape.recorder.projections import PromptWork, Turn
from tokentape.recorder.short_forms import quoted
from tokentape.replay.recorded.tampered_copy import tampered_copy
from tokentape.replay.reports.terminal import render
from tokentape.replay.view.run_page import check_page_path
from tokentape.screen import out
from tokentape.store import DatabaseStore, ParquetStore
from tokentape.turns_bar import plan_bar

if TYPE_CHECKING:
    from tokentape.generation.models.loading_settings import LoadingKeywords

REGENERATED_TURNS = (2, 7, 18)
"""A sampled turn, a greedy one, and a late one; turns that a plan does not have are left out."""
TAMPERED_TURN, TAMPERED_STEP = 12, 5
"""The token that is changed in a copy; in a shorter plan it is in the last turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFiles:
    """What the demo writes."""

    store: str
    """The URL of the database that it records into."""
    sealed: Path
    """The Parquet folder that it exports to."""
    page: Path


def run_demo(
    files: DemoFiles,
    model: str,
    plan_name: str,
    regenerated: Sequence[int],
    loading: "LoadingKeywords",
) -> int:
    """Record a plan, seal the run, replay it and write its page.

    Return the exit code: 1 if a replay failed, or did not find a changed token.
    """
    plan = load_plan(plan_name)
    turns_total = len(plan.turns())
    beyond = [number for number in regenerated if number > turns_total]
    if beyond:
        raise tt.PromptError(f"there is no turn {beyond[0]}: {plan.name} has {turns_total} turns")
    if not regenerated:
        regenerated = [number for number in REGENERATED_TURNS if number <= turns_total]
    check_page_path(files.page)
    lm = load_named_model(model, loading, note=" (the first time takes half a minute)")
    from tokentape.generation.plans import check_plan

    check_plan(plan, lm)
    with tt.open_store(files.store) as store:
        if isinstance(store, ParquetStore):
            raise tt.StoreError(f"{files.store} is a folder of sealed runs: record into a database")
        with resume_hint(files.store, options_to_resume(loading, None)) as begun:
            run_id, replies, record_s = record_plan(lm, store, plan, begun)
        recording = store.recording(run_id)
        turns = recording.turns()
        out.show(output.turns_table(turns))
        out.lines(["", _totals(turns, recording)])
        _seal(files, recording, store)
        passed = _rebuild(recording, tt.open_store(files.sealed), replies)
        passed &= _verify(recording, lm, store)
        passed &= _regenerate(recording, lm, regenerated, store)
        found, reports = _tamper(recording, lm, turns_total)
        page = tt.view(recording, store=store, reports=reports)
        page.save(files.page)
    size = files.page.stat().st_size
    out.lines(["", f"generating took {record_s:.1f} s; all replays pass: {passed}"])
    out.line(f"to look at it, open {files.page} in a browser ({size / 1000:.0f} kB)")
    return 0 if passed and found else 1


def _seal(files: DemoFiles, recording: tt.Recording, store: DatabaseStore) -> None:
    written = tt.export_parquet(recording, store, files.sealed)
    size = sum(file.stat().st_size for file in written)
    out.lines(["", f"recorded  {files.store}, run {recording.run_id}"])
    out.lines([f"sealed    {files.sealed}, {size / 1000:.0f} kB of Parquet", ""])


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
    work = PromptWork.of(systems, (turn.cache for turn in turns if turn.cache))
    return (
        f"prompt tokens processed: {work.computed_tokens:,} with reuse (the {work.system_tokens:,} "
        f"of the system prompt once), {work.prompt_tokens:,} without: "
        f"{work.times_fewer or 1:.1f} times fewer"
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


def _verify(recording: tt.Recording, lm: "tt.LoadedModel", store: DatabaseStore) -> bool:
    report = _verified(recording, lm)
    store_verdict(report, store)
    seconds, generation_s = report.duration_us / 1e6, report.generation_us / 1e6
    out.line(
        f"verify      {report.verdict:<20}{len(report.turns)} turns in one forward in "
        f"{seconds:.1f} s, {generation_s / seconds:.1f} times faster than their generation"
    )
    if not report.passes:
        out.text(f"{render(report)}\n")
    return report.passes


def _verified(
    recording: tt.Recording, lm: "tt.LoadedModel", turns: Sequence[int] | None = None
) -> "tt.Report":
    with output.progress("verify") as bar:
        task = bar.add_task("", total=None)
        return tt.verify(
            recording,
            lm,
            turns=turns,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _regenerate(
    recording: tt.Recording, lm: "tt.LoadedModel", numbers: Sequence[int], store: DatabaseStore
) -> bool:
    passed = True
    for number in numbers:
        with output.working(f"regenerating turn {number} with Hugging Face generate"):
            report = tt.regenerate(recording, lm, turns=[number])
        store_verdict(report, store)
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


def _tamper(
    recording: tt.Recording, lm: "tt.LoadedModel", turns_total: int
) -> "tuple[bool, dict[str, tt.Report]]":
    """Check a copy with one token changed, which is not stored.

    Return whether the change was found, and the report by its label.
    """
    copy = tampered_copy(recording, turn=min(TAMPERED_TURN, turns_total), step=TAMPERED_STEP)
    if copy is None:
        return True, {}
    report = _verified(copy.recording, lm, [copy.turn])
    place = (copy.turn, copy.step)
    found = next((each for each in report.divergences if (each.turn, each.step) == place), None)
    what = "NOT FOUND"
    if found is not None:
        recorded, replayed = quoted(found.recorded.text), quoted(found.replayed.text)
        what = f"the copy has {recorded}, the model gives {replayed}"
    changed = f"a copy with token {copy.step} of turn {copy.turn} changed"
    out.line(f"tampered    {report.verdict:<20}{changed}: {what}")
    return found is not None and not report.passes, {changed: report}
