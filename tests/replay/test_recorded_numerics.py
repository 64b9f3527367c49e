"""A retrace computes with the flags of torch that the run was recorded with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import tokentape as tt
from tests.replay.conversations import converse
from tokentape.generation.numerics.as_recorded import numerics_as_recorded
from tokentape.generation.numerics.flags import read_flags
from tokentape.replay.retracing import retracer
from tokentape.store import DatabaseStore


@contextmanager
def _as_they_are(environment: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sdpa_backends", "math"),
        ("mkldnn", "off"),
        ("float32_matmul", "medium"),
        ("deterministic", "warn"),
    ],
)
def test_a_run_with_another_flag_is_retraced_exactly_in_a_process_without_it(
    name: str,
    value: str,
    dtype: torch.dtype,
    lm: tt.LoadedModel,
    store: DatabaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm.model.to(dtype)
    before = read_flags(cuda=True)
    with numerics_as_recorded({name: value}) as failed:
        assert failed == ()
        recording = converse(lm, store, turns=2, do_sample=True)
    assert recording.started().environment[name] == value
    report = tt.retrace(recording, lm)

    assert report.verdict is tt.Verdict.EXACT, report.reason
    assert read_flags(cuda=True) == before
    monkeypatch.setattr(retracer, "numerics_as_recorded", _as_they_are)
    without = tt.retrace(recording, lm)
    # Which flags matter depends on the processor and the dtype; those of attention always do.
    if name == "sdpa_backends":
        assert without.verdict is not tt.Verdict.EXACT
