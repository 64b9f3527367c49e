"""The noise floor of a machine and a model: its measurement, its file and its use."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokentape as tt
from tokentape.replay.calibrate import forward_variants
from tokentape.replay.checking.noise_floor import (
    FLOORS,
    hides_faults,
    is_off_on_average,
    plausible,
    predict_flips,
    version_of,
)
from tokentape.replay.reports.terminal import render
from tokentape.store import DatabaseStore

Record = Callable[..., tt.Recording]
Cli = Callable[..., tuple[int, str, str]]


def long_run(lm: tt.LoadedModel, store: DatabaseStore) -> tt.Recording:
    with tt.Investigation(lm, store=store, name="long", system_prompt="Be kind.", seed=3) as run:
        for turn in range(4):
            run.chat(
                f"Question {turn}?", max_new_tokens=20, do_sample=bool(turn % 2), temperature=0.9
            )
    return store.recording(run.run_id)


def test_float32_is_never_called_less_noisy_than_it_was_seen_to_be(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recording = long_run(lm, store)
    floor = tt.calibrate(recording, lm)
    built_in = FLOORS["float32"]

    assert floor.version.startswith("float32-calibrated-")
    assert floor.margin_eps >= built_in.margin_eps
    assert floor.logprob_floor >= built_in.logprob_floor
    assert "chunks of 17" in floor.measured_on
    assert "eager attention" in floor.measured_on
    assert tt.verify(recording, lm, floor=floor).verdict is tt.Verdict.VERIFIED


def test_the_same_measurement_has_the_same_version(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    recording = long_run(lm, store)

    assert tt.calibrate(recording, lm) == tt.calibrate(recording, lm)


def test_a_fault_of_the_recording_is_not_taken_for_noise(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    recording = long_run(make_lm("llama"), store)
    other = make_lm("llama", seed=5)
    floor = tt.calibrate(recording, other)

    assert floor.logprob_floor < 1e-3
    assert tt.verify(recording, other, floor=floor, ignore=["weights"]).verdict == "diverged"


def test_the_state_of_the_caller_is_restored(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    recording = long_run(lm, store)
    before = (torch.get_num_threads(), lm.model.config._attn_implementation, torch.get_rng_state())
    tt.calibrate(recording, lm)

    assert torch.get_num_threads() == before[0]
    assert lm.model.config._attn_implementation == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_pass_without_being_called_verified(
    dtype: torch.dtype, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    lm.model.to(dtype)
    recording = long_run(lm, store)
    floor = tt.calibrate(recording, lm)
    report = tt.verify(recording, lm, floor=floor)

    assert hides_faults(floor)
    assert report.verdict is tt.Verdict.NEAR_TIE, render(report)
    assert "so it is not called verified" in report.reason
    assert report.predicted_flips > 0


def test_sixteen_bits_see_what_moves_the_average(lm: tt.LoadedModel, store: DatabaseStore) -> None:
    lm.model.to(torch.bfloat16)
    recording = long_run(lm, store)
    floor = tt.calibrate(recording, lm)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            parameter.mul_(1.0 + 0.15 * noise)
    report = tt.verify(recording, lm, floor=floor, ignore=["weights"])

    assert not report.passes, render(report)
    assert report.causes[0].name == "weights"


def test_a_recurrent_model_has_a_floor_once_it_is_measured(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    lm = make_lm("qwen3-next")
    recording = long_run(lm, store)

    assert tt.verify(recording, lm).verdict is tt.Verdict.INCOMPARABLE
    assert "chunks of 17" in [way.name for way in forward_variants(lm, 2)]
    one_by_one = make_lm("mamba")
    assert "chunks of 17" not in [way.name for way in forward_variants(one_by_one, 2)]
    assert tt.verify(recording, lm, floor=tt.calibrate(recording, lm)).passes


def test_a_floor_of_another_type_of_numbers_is_refused(
    lm: tt.LoadedModel, store: DatabaseStore, record: Record
) -> None:
    recording = record(lm, store)
    half = dataclasses.replace(FLOORS["float32"], dtype="bfloat16")
    floor = dataclasses.replace(half, version=version_of(half))
    with pytest.raises(tt.ReplayError, match="was measured in bfloat16"):
        tt.verify(recording, lm, floor=floor)
    lm.model.to(torch.bfloat16)
    with pytest.raises(tt.ReplayError, match="their noise differs"):
        tt.calibrate(recording, lm)


def test_a_floor_comes_back_from_its_file(tmp_path: Path) -> None:
    floor = FLOORS["float32"]
    tt.write_floor(floor, tmp_path / "new" / "floor.json")

    assert tt.read_floor(tmp_path / "new" / "floor.json") == floor


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not a floor"),
        ("[1]", "is not a floor"),
        ("{}", "is not a floor"),
        ('{"tokentape_floor": 2}', "newer format"),
        ('{"tokentape_floor": 1}', "damaged floor"),
        ("NUL", "damaged floor"),
        ("NEGATIVE", "damaged floor"),
        ("WIDER", "was changed since it was measured"),
        ("ABSURD", "it hides every fault"),
        ("[" * 200_000, "is not a floor"),
    ],
)
def test_a_file_that_is_not_a_floor_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "floor.json"
    tt.write_floor(FLOORS["float32"], path)
    values = json.loads(path.read_text())
    if text == "NUL":
        text = json.dumps(values | {"margin_eps": None})
    if text == "WIDER":
        text = json.dumps(values | {"logprob_floor": 0.5})
    if text == "ABSURD":
        wide = dataclasses.replace(FLOORS["float32"], margin_eps=1e9)
        text = json.dumps(values | {"margin_eps": 1e9, "version": version_of(wide)})
    if text == "NEGATIVE":
        text = json.dumps(values | {"logprob_floor": -1.0})
    path.write_text(text)
    with pytest.raises(tt.ReplayError, match=complaint):
        tt.read_floor(path)


def test_the_command_writes_a_floor_and_verify_judges_by_it(
    tiny_folder: Path, tmp_path: Path, record: Record, cli: Cli
) -> None:
    path, floor = tmp_path / "runs.db", tmp_path / "floor.json"
    with tt.open_store(path) as store:
        record(tt.load_model(str(tiny_folder)), store)
    code, out, _ = cli("calibrate", "--store", str(path), "--output", str(floor))
    version = json.loads(floor.read_text())["version"]

    assert code == 0
    assert f"floor {version}" in out
    code, out, _ = cli("verify", "--store", str(path), "--floor", str(floor), "--json")
    assert code == 0
    assert json.loads(out)["floor"]["version"] == version
    assert cli("verify", "--store", str(path), "--floor", str(tmp_path / "none.json"))[0] == 2


def test_flips_are_predicted_by_how_near_tokens_are_and_tested_against_that() -> None:
    noisy = dataclasses.replace(FLOORS["float32"], dtype="bfloat16", margin_noise=0.06)
    gaps = [0.01] * 12 + [1.0] * 988

    # Twelve of a thousand gaps below 0.25 logits: a density of 0.05 for each logit and token.
    assert predict_flips(gaps, noisy) == pytest.approx(0.5 * 12 / 0.24 * 0.06)
    assert plausible(8, 1.5)
    assert not plausible(12, 1.5)
    assert plausible(1, 0.0)
    assert not plausible(2, 1e-5)
    assert plausible(1000, 1000.0)
    assert not plausible(1300, 1000.0)


def test_an_average_counts_over_many_tokens_of_sixteen_bits_only() -> None:
    floor = dataclasses.replace(FLOORS["float32"], dtype="bfloat16", logprob_noise=0.01)

    assert is_off_on_average([0.05] * 40, floor)
    assert not is_off_on_average([0.03] * 40, floor)
    assert not is_off_on_average([0.05] * 20, floor)
    assert not is_off_on_average([0.05] * 40, dataclasses.replace(floor, dtype="float32"))


@given(st.lists(st.floats(0.0, 20.0), max_size=300))
def test_hardly_any_near_ties_are_expected_in_float32(gaps: list[float]) -> None:
    predicted = predict_flips(gaps, FLOORS["float32"])

    assert 0.0 <= predicted < 0.01
    assert plausible(0, predicted)
    assert plausible(1, predicted)
    assert not plausible(5, predicted)
