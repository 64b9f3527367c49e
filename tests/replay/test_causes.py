"""The causes that a report names, and those that it must not guess."""

import dataclasses
from typing import Any

import torch

import tokentape as tt
from benchmarks.replay.fault_case import Case, rerecord
from tests.replay.conversations import converse
from tokentape.recorder.events import Event, TurnStarted
from tokentape.replay.reports.terminal import render
from tokentape.store import DatabaseStore


def test_without_a_floor_no_cause_is_read_off_the_numbers(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm.model.to(torch.bfloat16)
    report = tt.verify(converse(lm, store, do_sample=True), lm)

    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert report.causes == ()


def test_a_setting_is_named_only_where_it_explains_what_is_wrong(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Two settings at once, and greedy instead of sampled: no single value explains these."""
    case = Case(converse(lm, store, turns=1, do_sample=True, temperature=0.9), lm, store)
    for changed in ({"do_sample": False}, {"temperature": 0.8, "repetition_penalty": 1.2}):

        def change(event: Event, changed: dict[str, Any] = changed) -> Event:
            if isinstance(event, TurnStarted):
                return dataclasses.replace(event, sampling={**event.sampling, **changed})
            return event

        report = tt.verify(rerecord(case, change).recording, lm)

        assert report.causes[0].name in ("sampler", "stop")
        assert "explains" not in report.causes[0].sentence, render(report)
