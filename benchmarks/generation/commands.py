"""Commands that measure generating: decode, prefill, conversation, watch, cuda."""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

import tokentape as tt
from benchmarks.generation import (
    conversation,
    decode,
    monitor_cost,
    prefill,
    prefill_memory,
    prefix_restore,
    step_profile,
    tables,
)
from benchmarks.options import JsonOption, RoundsOption, demo_model, ticking
from benchmarks.report import Report, open_report


def decode_command(
    rounds: RoundsOption = decode.ROUNDS,
    new_tokens: Annotated[int, typer.Option(min=3, help="Tokens of a round.")] = decode.NEW_TOKENS,
    json_path: JsonOption = None,
) -> None:
    """Time a recorded decoding step against `generate`."""
    with open_report(json_path) as report:
        same = _report_decode(report, demo_model("cpu"), rounds, new_tokens)
    raise typer.Exit(0 if same else 1)


def step_profile_command(
    rounds: RoundsOption = step_profile.ROUNDS,
    new_tokens: Annotated[
        int, typer.Option(min=24, help="Tokens of a round; the second half is counted.")
    ] = step_profile.NEW_TOKENS,
    json_path: JsonOption = None,
) -> None:
    """Split a decoding step into its parts, and compare it with the speed of the memory."""
    with open_report(json_path) as report, tempfile.TemporaryDirectory() as folder:
        lm = demo_model("cpu")
        with ticking("rounds", len(step_profile.CONTEXTS) * (rounds + 1)) as tick:
            profiles = list(
                step_profile.measure_step_profiles(
                    lm, Path(folder), new_tokens=new_tokens, rounds=rounds, tick=tick
                )
            )
        report.show(step_profile.profile_table(profiles))
        report.print()
        report.print(step_profile.speed_line(profiles))
        report.add("step_profile", [asdict(each) for each in profiles])


def prefill_command(json_path: JsonOption = None) -> None:
    """Count the tokens forwarded, and measure a prefill's memory."""
    system, turn_3 = prefill.SYSTEM_TOKENS, prefill.TURN_3_TOKENS
    with open_report(json_path) as report:
        report.print(
            f"a prompt grows by ({turn_3:,} - {system:,}) / 3 = {(turn_3 - system) / 3:,.0f} "
            f"tokens a turn, from a system prompt of {system:,} to {turn_3:,} at turn 3"
        )
        with ticking("forwarded", prefill.TURNS * len(prefill.STRATEGIES)) as tick:
            lengths, strategies = prefill.measure_forwarded(tick=tick)
        report.show(tables.forwarded_table(lengths, strategies))
        report.show(tables.plan_table(strategies))
        report.add("forwarded", [asdict(each) | {"total": each.total} for each in strategies])
        unequal = [each.strategy for each in strategies if each.recorded != each.total]
        answer = f"NO: {unequal}" if unequal else "yes"
        report.print(f"\nforwarded and recorded agree: {answer}")
        _report_memory(report, torch.device("cpu"))
    raise typer.Exit(1 if unequal else 0)


def conversation_command(
    turns: Annotated[int, typer.Option(min=2)] = conversation.TURNS,
    fresh_turns: Annotated[
        int, typer.Option(min=0, help="Turns of `generate` without a cache that are timed.")
    ] = conversation.FRESH_TURNS,
    json_path: JsonOption = None,
) -> None:
    """Time 20 turns after a long system prompt.

    tokentape is compared with `generate` whose cache is reused by hand, and without a cache.
    """
    with open_report(json_path) as report, tempfile.TemporaryDirectory() as folder:
        lm = demo_model("cpu")
        with ticking("turns", turns) as tick:
            figures = conversation.measure_conversation(
                lm, Path(folder), turns=turns, fresh_turns=fresh_turns, tick=tick
            )
        _report_conversation(report, figures)
        restored = _report_prefix_restore(report, lm, Path(folder))
    same = figures.same_tokens and figures.same_tokens_as_fresh and restored
    raise typer.Exit(0 if same else 1)


def watch_command(
    rounds: RoundsOption = monitor_cost.ROUNDS,
    new_tokens: Annotated[
        int, typer.Option(min=3, help="Tokens of a round.")
    ] = monitor_cost.NEW_TOKENS,
    json_path: JsonOption = None,
) -> None:
    """Time decoding with an activation monitor on four layers."""
    with open_report(json_path) as report:
        lm = demo_model("cpu")
        with ticking("rounds", rounds + 1) as tick:
            figures = monitor_cost.measure_monitor_cost(
                lm, new_tokens=new_tokens, rounds=rounds, tick=tick
            )
        report.show(monitor_cost.monitor_table(figures))
        report.print(f"\nsame tokens: {figures.same_tokens}")
        report.add("watch", asdict(figures))
    raise typer.Exit(0 if figures.same_tokens else 1)


def cuda_command(
    rounds: RoundsOption = decode.ROUNDS,
    new_tokens: Annotated[int, typer.Option(min=3, help="Tokens of a round.")] = decode.NEW_TOKENS,
    json_path: JsonOption = None,
) -> None:
    """Measure decoding and a prefill's memory on a GPU."""
    if not torch.cuda.is_available():
        sys.stderr.write("benchmarks: torch finds no CUDA device here\n")
        raise typer.Exit(2)
    with open_report(json_path) as report:
        same = _report_decode(report, demo_model("cuda"), rounds, new_tokens)
        _report_memory(report, torch.device("cuda"))
    raise typer.Exit(0 if same else 1)


def _report_decode(report: Report, lm: tt.LoadedModel, rounds: int, new_tokens: int) -> bool:
    """Measure and print; return whether both engines gave the same tokens."""
    contexts = (decode.SHORT_TOKENS, decode.LONG_TOKENS)
    count = len(contexts) * 2 * (rounds + 1)
    with tempfile.TemporaryDirectory() as folder, ticking("rounds", count) as tick:
        figures = list(
            decode.measure_decode(
                lm,
                Path(folder),
                contexts=contexts,
                new_tokens=new_tokens,
                rounds=rounds,
                tick=tick,
            )
        )
    comparisons = [each for figure in figures for each in figure.comparisons]
    report.show(tables.decode_table(comparisons))
    report.show(tables.cost_table(list(zip(contexts, (f.cost for f in figures), strict=True))))
    report.add("decode", [asdict(each) for each in figures])
    return all(each.same_tokens for each in comparisons)


def _report_memory(report: Report, device: torch.device) -> None:
    """Measure and print the transient memory of the prefills of turn 3."""
    system, turn_3 = prefill.SYSTEM_TOKENS, prefill.TURN_3_TOKENS
    prefills = prefill_memory.turn_3_prefills(system_tokens=system, prompt_tokens=turn_3)
    report.print(f"\nturn 3, one layer of {prefills[0].model()}")
    figures = []
    with ticking("memory", len(prefills)) as tick:
        for each in prefills:
            figures.append(prefill_memory.measure_transient(each, device))
            tick()
    report.show(tables.transient_table(figures))
    report.print()
    for line in tables.score_tensor_sizes(system, turn_3, prefill_memory.HEADS):
        report.print(line)
    report.add(
        "memory", [asdict(each) | {"transient_bytes": each.at_full_heads} for each in figures]
    )


def _report_conversation(report: Report, figures: conversation.ConversationFigures) -> None:
    report.show(tables.conversation_table(figures))
    ours, uncached = sum(figures.ours.prefill_tokens), sum(figures.prompt_tokens)
    report.print(
        f"\nprompts of all {len(figures.prompt_tokens)} turns: {uncached:,} tokens, "
        f"{uncached / ours:.1f} times the {ours:,} that are forwarded"
    )
    report.print(f"same tokens as the cache reused by hand: {figures.same_tokens}")
    report.print(f"same tokens as without a cache: {figures.same_tokens_as_fresh}")
    report.add("conversation", asdict(figures))


def _report_prefix_restore(report: Report, lm: tt.LoadedModel, folder: Path) -> bool:
    """Measure and print; return whether both processes gave the same tokens."""
    with ticking("processes", 2) as tick:
        starts = prefix_restore.measure_prefix_restore(
            folder / "prefixes",
            model=lm.name,
            system_tokens=conversation.SYSTEM_TOKENS,
            new_tokens=conversation.NEW_TOKENS,
            tick=tick,
        )
    report.show(tables.prefix_restore_table(starts))
    same = starts[0].token_ids == starts[1].token_ids
    report.print(f"\nsame tokens after the restored system prompt: {same}")
    report.add("restart", [asdict(each) for each in starts])
    return same
