"""What `regenerate` can say of another token, with and without a noise floor."""

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch

import tokentape as tt
from benchmarks.replay.fault_case import Case, rerecord
from tests.replay.conversations import converse
from tests.replay.made_reports import divergence
from tokentape.recorder.events import Event, TurnFinished
from tokentape.replay.checking.noise_floor import DEFAULT_FLOOR, MARGIN_EPS_MAX
from tokentape.replay.regenerate import _verdict_on
from tokentape.replay.reports.terminal import render
from tokentape.replay.results.verdict import DivergenceKind
from tokentape.store import DatabaseStore


@pytest.fixture
def parting(make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore) -> Case:
    """An honest run in bfloat16 where `generate` draws another token, in a turn after the first."""
    found = {tt.Verdict.EXACT, tt.Verdict.INCOMPARABLE}
    # Which runs part, and by how much, differs from one kind of CPU to another.
    for family, seed in itertools.product(("qwen3", "gpt2", "llama", "mistral"), range(4)):
        lm = make_lm(family, seed=1)
        lm.model.to(torch.bfloat16)
        recording = converse(lm, store, seed=seed, turns=4, do_sample=True)
        turns = tt.regenerate(recording, lm).turns
        verdicts = [turn.verdict for turn in turns]
        assert set(verdicts) <= {*found, tt.Verdict.NEAR_TIE}
        parted = [turn for turn in turns if turn.verdict is tt.Verdict.INCOMPARABLE]
        # A token that a filter has removed has no margin.
        begins_exact = verdicts[0] is tt.Verdict.EXACT
        if begins_exact and set(verdicts) == found and parted[0].margin_max > 0:
            return Case(recording, lm, store)
    raise AssertionError("no run parts from `generate`: the noise of bfloat16 is gone")


def test_without_a_floor_another_token_of_an_honest_run_is_incomparable(parting: Case) -> None:
    report = tt.regenerate(parting.recording, parting.lm)

    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert "`generate` produces another token, and no noise floor is known" in report.reason
    assert "in bfloat16: measure one with `tokentape calibrate`" in report.reason
    parted = [turn for turn in report.turns if turn.verdict is tt.Verdict.INCOMPARABLE]
    assert [turn.mismatches for turn in parted] == [1] * len(parted)
    assert report.divergences[0].margin == parted[0].margin_max > 0
    assert "INCOMPARABLE" in render(report)
    floor = tt.calibrate(parting.recording, parting.lm)
    judged = tt.regenerate(parting.recording, parting.lm, floor=floor)
    assert judged.verdict is tt.Verdict.NEAR_TIE


def test_without_a_floor_another_end_state_is_diverged(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = make_lm("llama")
    lm.model.to(torch.bfloat16)
    case = Case(converse(lm, store, turns=2, do_sample=True), lm, store)

    def change(event: Event) -> Event:
        if isinstance(event, TurnFinished):
            return dataclasses.replace(event, generator_sha256="0" * 64)
        return event

    report = tt.regenerate(rerecord(case, change).recording, lm)

    assert report.verdict is tt.Verdict.DIVERGED
    assert report.reason.endswith("the seed does not lead to the recorded end state")


def test_a_turn_that_no_noise_explains_makes_the_run_diverged(parting: Case) -> None:
    """Another turn without a verdict does not hide it."""

    def change(event: Event) -> Event:
        if isinstance(event, TurnFinished) and event.turn == 1:
            return dataclasses.replace(event, generator_sha256="0" * 64)
        return event

    report = tt.regenerate(rerecord(parting, change).recording, parting.lm)

    assert [turn.verdict for turn in report.turns].count(tt.Verdict.INCOMPARABLE) >= 1
    assert report.verdict is tt.Verdict.DIVERGED
    assert report.reason.startswith("turn 1: ")


@pytest.mark.parametrize(
    ("margin", "kind", "without_a_floor"),
    [
        (5e-4, DivergenceKind.NEAR_TIE, tt.Verdict.NEAR_TIE),
        (0.5, DivergenceKind.TOKEN, tt.Verdict.INCOMPARABLE),
        (None, DivergenceKind.FILTERED, tt.Verdict.INCOMPARABLE),
        (MARGIN_EPS_MAX + 0.1, DivergenceKind.TOKEN, tt.Verdict.DIVERGED),
    ],
)
def test_the_margin_decides_whether_noise_may_explain_a_token(
    margin: float | None, kind: DivergenceKind, without_a_floor: tt.Verdict
) -> None:
    token = divergence(margin=margin, kind=kind)
    near = kind is DivergenceKind.NEAR_TIE

    assert _verdict_on(token, None) is without_a_floor
    with_a_floor = tt.Verdict.NEAR_TIE if near else tt.Verdict.DIVERGED
    assert _verdict_on(token, DEFAULT_FLOOR) is with_a_floor
    assert _verdict_on(None, None) is tt.Verdict.DIVERGED
