"""In 16 bits a retrace finds every injected fault and names its cause first.

`verify` cannot: its noise in 16 bits hides what these faults change.
"""

import copy
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import tokentape as tt
from benchmarks.replay.fault_case import Case, record_case, rerecord
from benchmarks.replay.faults import FAULTS, Fault, FaultResult, check_fault
from benchmarks.tiny_models import VOCABULARY
from tests.replay.conversations import converse
from tokentape.recorder.events import Event, TokenSampled, TurnFinished
from tokentape.replay.checking import token_checker
from tokentape.replay.reports.terminal import render
from tokentape.store import DatabaseStore

DOCS = Path(__file__).parents[2] / "docs" / "replay.md"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def case(request: pytest.FixtureRequest, make_lm: Callable[..., tt.LoadedModel]) -> Case:
    return record_case(make_lm("llama", dtype=request.param), tokens=16)


@pytest.fixture(scope="module")
def found_in(case: Case) -> Callable[[Fault], FaultResult]:
    return cache(lambda fault: check_fault(fault, case, tt.retrace))


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_retrace_finds_the_fault_and_names_its_cause_first(
    found_in: Callable[[Fault], FaultResult], fault: Fault
) -> None:
    found = found_in(fault)

    assert found.is_right, f"{render(found.report)}\n\n{render(found.numbers)}"
    assert found.report.passes == (fault.name == "honest" or found.rounded_away)


def test_a_change_that_rounds_away_changed_no_bit_of_the_weights(
    case: Case, found_in: Callable[[Fault], FaultResult]
) -> None:
    coarse = case.lm.model.dtype is torch.bfloat16
    rounded = {fault.name for fault in FAULTS if found_in(fault).rounded_away}

    expected = {"weights x (1 + 1e-4 noise)", "weights rounded to bfloat16"} if coarse else set()
    assert rounded == expected


@pytest.mark.parametrize("name", ["honest", "one token tampered", "one draw lost", "seed + 1"])
def test_rows_are_checked_in_blocks_from_the_first_difference_on(
    case: Case, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_checker, "_BLOCK", 5 * VOCABULARY)
    fault = next(each for each in FAULTS if each.name == name)

    assert check_fault(fault, case, tt.retrace).is_right


def test_a_token_that_was_altered_to_one_about_as_likely_is_named(
    case: Case, store: DatabaseStore
) -> None:
    case = Case(converse(case.lm, store, turns=1, do_sample=False, tokens=80), case.lm, store)
    (turn,) = case.recording.turns()
    step, other = min(
        ((token.step, other) for token in turn.tokens for other in token.top_ids[1:]),
        key=lambda pair: difference_from_token(turn.tokens[pair[0]], pair[1]),
    )
    assert difference_from_token(turn.tokens[step], other) < 0.05
    ids = list(turn.reply_ids)
    ids[step] = other

    def change(event: Event) -> Event:
        if isinstance(event, TokenSampled) and event.step == step:
            return replace(event, token_id=other)
        if isinstance(event, TurnFinished):
            return replace(event, text=str(case.lm.tokenizer.decode(ids)), stop_text="")
        return event

    report = tt.retrace(rerecord(case, change).recording, case.lm)

    first = report.causes[0]
    assert (first.name, first.turn, first.step) == ("token", 1, step)


def difference_from_token(token: TokenSampled, other: int) -> float:
    """Return by how much less likely another token is, at least more than rounding hides."""
    difference = token.logprob - token.top_logprobs[token.top_ids.index(other)]
    return difference if difference > 0.005 else math.inf


def test_one_bit_of_one_weight_is_found_in_the_first_turn(case: Case) -> None:
    lm = copy_of(case.lm)
    with torch.no_grad():
        weight = lm.model.model.layers[0].mlp.down_proj.weight
        largest = int(weight.abs().argmax())
        bits = weight.view({2: torch.int16, 4: torch.int32}[weight.element_size()])
        bits.view(-1)[largest] ^= 1

    report = tt.retrace(case.recording, lm)
    numbers = tt.retrace(case.recording, lm, ignore=["weights"])

    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert report.causes[0].name == "weights"
    assert "down_proj" in report.causes[0].sentence
    assert numbers.rows[0].turn == 1
    assert not numbers.passes


@pytest.mark.parametrize("field", ["logprob", "logprob_processed", "entropy", "top_gap"])
def test_one_unit_in_the_last_place_of_one_number_is_found(case: Case, field: str) -> None:
    form = "f" if field.startswith("logprob") else "e"

    def change(event: Event) -> Event:
        if isinstance(event, TokenSampled) and (event.turn, event.step) == (3, 2):
            return replace(event, **{field: next_number(getattr(event, field), form)})
        return event

    report = tt.retrace(rerecord(case, change).recording, case.lm)

    assert not report.passes
    (row,) = report.rows
    assert (row.turn, row.step) == (3, 2)
    (number,) = row.numbers
    assert (number.name, number.ulps) == (field, 1)
    assert [turn.differing_rows for turn in report.turns] == [0, 0, 1, 0]


def next_number(value: float, form: str) -> float:
    code = {"f": "<i", "e": "<h"}[form]
    (bits,) = struct.unpack(code, struct.pack(f"<{form}", value))
    (changed,) = struct.unpack(f"<{form}", struct.pack(code, bits + 1))
    return float(changed)


def copy_of(lm: tt.LoadedModel) -> tt.LoadedModel:
    return tt.LoadedModel(copy.deepcopy(lm.model), lm.tokenizer, lm.name)


@pytest.mark.parametrize("model", ["tiny", "smollm2-demo"])
def test_the_docs_have_a_row_for_every_fault_in_16_bits(model: str) -> None:
    text = DOCS.read_text(encoding="utf-8")
    table = text.split(f"<!-- faults of {model} in 16 bits -->")[1].split("<!-- end")[0]
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]

    assert [row[0] for row in rows] == [fault.name for fault in FAULTS]
    for row, fault in zip(rows, FAULTS, strict=True):
        for verdict, cause in ((row[1], row[2]), (row[5], row[6])):
            if cause == "no bit changed":
                assert verdict == "exact"
                continue
            expected = [each.replace("verified", "exact") for each in fault.verdicts]
            assert verdict in (["incomparable"] if fault.fingerprint else expected)
            assert cause in [each or "none" for each in fault.causes]
