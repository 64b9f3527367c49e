"""The causes that a report names, and those that it must not guess."""

import dataclasses
from typing import Any

import torch

import tokentape as tt
from benchmarks.replay.fault_case import Case, rerecord
from tests.replay.conversations import converse
from tokentape.recorder.events import Event, RunStarted, TokenSampled, TurnStarted
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


def test_no_seed_is_blamed_where_other_random_numbers_are_drawn(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """A recording of another torch: its seed, unchanged, leads to other numbers."""
    case = Case(converse(lm, store, turns=1, do_sample=True, temperature=0.9), lm, store)

    def change(event: Event) -> Event:
        if isinstance(event, RunStarted):
            return dataclasses.replace(event, sampler_sha256="0" * 64)
        if isinstance(event, TurnStarted):
            return dataclasses.replace(event, seed=(event.seed or 0) + 1)
        return event

    recording = rerecord(case, change).recording
    for ignore in ((), ("random_stream",)):
        report = tt.verify(recording, lm, ignore=ignore)

        assert [cause.name for cause in report.causes] == ["random_stream"], render(report)
        assert report.causes[0].turn == 1


def _shifted(case: Case, nats: float, **environment: str) -> tt.Recording:
    """Return the recording with another environment and other log-probabilities."""
    today = case.recording.started().environment

    def change(event: Event) -> Event:
        if isinstance(event, RunStarted):
            return dataclasses.replace(event, environment={**today, **environment})
        if isinstance(event, TokenSampled):
            return dataclasses.replace(event, logprob=torch.tensor(event.logprob - nats).item())
        return event

    return rerecord(case, change).recording


def test_hardware_and_flags_that_differ_are_named_where_the_numbers_differ_by_little(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    case = Case(converse(lm, store, turns=1), lm, store)
    others = {"python": "3.1", "platform": "other", "cpu": "other", "MKL_CBWR": "COMPATIBLE"}
    report = tt.verify(_shifted(case, 1e-3, **others), lm)

    assert report.causes[0].name == "numerics"
    assert "(cpu was other, MKL_CBWR was COMPATIBLE)" in report.causes[0].sentence
    assert "  cpu differs (noted): recorded other, now " in render(report)
    assert [each.field for each in report.differences] == list(others)


def test_another_release_of_python_explains_no_number(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    case = Case(converse(lm, store, turns=1), lm, store)
    report = tt.verify(_shifted(case, 1e-3, python="3.1"), lm)

    assert report.causes[0].name == "unknown"


def test_only_another_precision_of_float32_explains_larger_differences(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    case = Case(converse(lm, store, turns=1), lm, store)
    tf32 = tt.verify(_shifted(case, 0.03, float32_matmul="high"), lm)
    processor = tt.verify(_shifted(case, 0.03, cpu="other"), lm)

    assert tf32.causes[0].name == "numerics"
    assert processor.causes[0].name == "unknown"
