"""The commands of `python -m benchmarks`: their output, and their exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import benchmarks.__main__ as commands
import tokentape as tt
from benchmarks.generation import commands as generation
from benchmarks.generation import conversation, decode, prefix_restore
from benchmarks.generation.conversation import ConversationFigures, StrategyFigures
from benchmarks.generation.prefix_restore import StartFigures
from benchmarks.parity import commands as parity_commands
from benchmarks.parity.matrix import Cell
from benchmarks.parity.tables import tally


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(commands.app, arguments)


def cell(**changes: Any) -> Cell:
    made: dict[str, Any] = {
        "family": "llama",
        "dtype": "float32",
        "config": "greedy",
        "start": "reuse",
        "decision": "hit:extends",
        "reused_tokens": 48,
        "bitwise": True,
        "same_tokens_as_fresh": True,
    }
    return Cell(**made | changes)


def test_alone_the_commands_are_listed(run: Callable[..., Result]) -> None:
    shown = run()

    assert shown.exit_code == 0
    for command in ("parity", "prefill", "decode", "conversation", "store", "replay", "faults"):
        assert command in shown.output


def test_parity_counts_its_cells_and_says_what_it_ran_on(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cells = [cell(), cell(config="top-k"), cell(start="disk", bitwise=None)]
    monkeypatch.setattr(parity_commands, "run_matrix", lambda *chosen: cells)
    shown = run("parity", "--json", str(tmp_path / "parity.json"))

    assert shown.exit_code == 0
    assert shown.output.startswith("measured on ")
    assert "2/2 bits, 2/2 tokens" in shown.output
    assert "- bits, 1/1 tokens" in shown.output
    figures = json.loads((tmp_path / "parity.json").read_text())
    assert [each["passes"] for each in figures["parity"]] == [True] * 3
    assert figures["machine"]["torch"] == torch.__version__


def test_a_cell_that_does_not_pass_is_named_and_exits_with_1(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_commands, "run_matrix", lambda *chosen: [cell(bitwise=False)])
    shown = run("parity")

    assert shown.exit_code == 1
    assert "0/1 bits" in shown.output
    assert "does not pass: llama float32 reuse greedy" in shown.output


def test_an_unknown_family_exits_with_2(run: Callable[..., Result]) -> None:
    assert run("parity", "--family", "nonsense").exit_code == 2


def test_other_tokens_than_those_of_generate_exit_with_1(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, lm: tt.LoadedModel
) -> None:
    cost = decode.RecordingCost(
        step_ms=10.0, record_ms=0.1, record_alone_ms=0.1, measure_alone_ms=0.1
    )

    def measured(*given: Any, contexts: tuple[int, ...], **settings: Any) -> Any:
        for context in contexts:
            unlike = decode.DecodeComparison(
                context_tokens=context,
                sampler="greedy",
                our_ms=(10.0,),
                their_ms=(12.0,),
                same_tokens=False,
            )
            yield decode.DecodeFigures(comparisons=(unlike,), cost=cost)

    monkeypatch.setattr(generation, "demo_model", lambda device: lm)
    monkeypatch.setattr(decode, "measure_decode", measured)
    shown = run("decode")

    assert shown.exit_code == 1
    assert "1.200 x" in shown.output
    assert "DIFFERENT" in shown.output


@pytest.mark.parametrize(("replied", "exit_code"), [([1, 2], 0), ([1, 3], 1)])
def test_a_conversation_with_other_replies_exits_with_1(
    replied: list[int],
    exit_code: int,
    run: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    lm: tt.LoadedModel,
) -> None:
    def strategy(name: str, tokens: list[int]) -> StrategyFigures:
        return StrategyFigures(name, [90, 31], [2.0, 1.0], [tokens, tokens])

    figures = ConversationFigures(
        ours=strategy("ours", [1, 2]),
        reused=strategy("reused", replied),
        fresh=StrategyFigures("fresh", [90], [3.0], [[1, 2]]),
        prompt_tokens=(90, 121),
    )
    start = StartFigures(source="", computed_tokens=60, seconds=2.0, token_ids=[1])
    monkeypatch.setattr(generation, "demo_model", lambda device: lm)
    monkeypatch.setattr(conversation, "measure_conversation", lambda *a, **k: figures)
    monkeypatch.setattr(prefix_restore, "measure_prefix_restore", lambda *a, **k: (start, start))
    shown = run("conversation", "--turns", "2")

    assert shown.exit_code == exit_code
    assert "211 tokens, 1.7 times the 121 that are forwarded" in shown.output


def test_without_a_gpu_cuda_says_so_in_one_line_and_exits_with_2(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shown = run("cuda")

    assert shown.exit_code == 2
    assert shown.output == "benchmarks: torch finds no CUDA device here\n"


def test_a_tally_leaves_out_what_cannot_be_compared() -> None:
    counted = tally([cell(), cell(bitwise=None), cell(bitwise=False, same_tokens_as_fresh=False)])

    assert str(counted) == "1/2 bits, 2/3 tokens"
