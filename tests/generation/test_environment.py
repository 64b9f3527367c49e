"""A run records what the last bits depend on, and a replay and a resume name what differs."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tokentape as tt
from tokentape.generation import fingerprints
from tokentape.generation.fingerprints import environment_differences, hardware
from tokentape.generation.numerics.flags import FLAGS
from tokentape.recorder.events import RunResumed
from tokentape.store import DatabaseStore

# The package has the function under this name.
environment_module: Any = sys.modules["tokentape.generation.fingerprints.environment"]
GPU = {
    "gpu": "NVIDIA H200",
    "gpu_multiprocessors": "132",
    "gpu_capability": "9.0",
    "driver": "580.159.04",
    "cublas": "13.1.0",
    "cudnn": "91900",
}
OLD = {"python": "3.11.7", "torch": "2.13.0+cpu", "cuda": "", "gpu": "", "machine": "x86_64"}


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a model on a GPU, whose hardware is made up."""
    monkeypatch.setattr(environment_module, "gpu", lambda device: GPU)
    return fingerprints.environment(torch.device("cuda"))


def test_a_run_records_processor_libraries_and_flags(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="x", system_prompt="Hi.") as run:
        run.chat("One?", max_new_tokens=1)
    with tt.Investigation.resume(store, run.run_id, lm):
        pass
    recording = store.recording(run.run_id)
    resumed = next(each.event for each in recording.events() if isinstance(each.event, RunResumed))
    recorded = recording.started().environment

    assert recorded["cpu"]
    assert recorded["float32_matmul"] == "highest"
    assert recorded["sdpa_backends"] == "flash efficient math cudnn"
    assert recorded["deterministic"] == "off"
    assert dict(resumed.environment) == dict(recorded) == fingerprints.environment()


def test_nothing_of_a_gpu_is_recorded_on_a_processor() -> None:
    recorded = fingerprints.environment()
    of_cuda = {flag.name for flag in FLAGS if flag.cuda}

    assert not of_cuda & recorded.keys()
    assert recorded["gpu"] == ""
    assert "driver" not in recorded
    assert not torch.cuda.is_initialized()


def test_on_a_gpu_its_hardware_and_flags_are_recorded_as_turns_run(on_cuda: dict[str, str]) -> None:
    assert GPU.items() <= on_cuda.items()
    assert on_cuda["cudnn_tf32"] == "on"
    assert on_cuda["CUBLAS_WORKSPACE_CONFIG"] == "not set"
    assert on_cuda["sdpa_backends"] == "flash efficient math"
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_variables_that_choose_kernels_are_recorded_where_they_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = fingerprints.environment()
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setitem(os.environ, "ONEDNN_MAX_CPU_ISA", "AVX2\udc80" + "x" * 1000)
    after = fingerprints.environment()

    assert after["MKL_CBWR"] == "COMPATIBLE"
    assert after["ONEDNN_MAX_CPU_ISA"].encode()
    assert len(after["ONEDNN_MAX_CPU_ISA"]) == 200
    assert environment_differences(before, after)[0] == ("MKL_CBWR", "not set", "COMPATIBLE")
    assert environment_differences(after, before)[0] == ("MKL_CBWR", "COMPATIBLE", "not set")


def test_a_recording_of_0_1_0_is_compared_by_what_it_has(on_cuda: dict[str, str]) -> None:
    today = {**fingerprints.environment(), **OLD, "MKL_CBWR": "COMPATIBLE"}

    assert environment_differences(OLD, today) == []
    assert environment_differences({}, today) == []
    recorded = {**OLD, "gpu": "NVIDIA H100"}
    on_gpu = {**on_cuda, **OLD, "gpu": "NVIDIA H200"}
    assert environment_differences(recorded, on_gpu) == [("gpu", "NVIDIA H100", "NVIDIA H200")]


def test_another_gpu_is_compared_only_with_a_gpu(on_cuda: dict[str, str]) -> None:
    other = {**on_cuda, "gpu_multiprocessors": "114", "cudnn_tf32": "off"}

    assert environment_differences(on_cuda, other) == [
        ("gpu_multiprocessors", "132", "114"),
        ("cudnn_tf32", "on", "off"),
    ]
    names = [name for name, *_ in environment_differences(on_cuda, fingerprints.environment())]
    assert names == ["sdpa_backends"]


def test_values_of_a_damaged_recording_are_compared_as_text() -> None:
    today = fingerprints.environment()
    foreign = {f"foreign {number}": {"x": 1} for number in range(1000)}
    damaged: dict[str, Any] = {**foreign, **today, "cpu": ["a", 1], "onednn": None}

    assert environment_differences(damaged, today) == [
        ("cpu", "['a', 1]", today["cpu"]),
        ("onednn", "None", today["onednn"]),
    ]


def test_every_key_is_compared(on_cuda: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in environment_module._VARIABLES:
        monkeypatch.setenv(name, "1")
    recorded = {**on_cuda, **fingerprints.environment(), "gpu": "NVIDIA H200"}
    other = dict.fromkeys(recorded, "other")

    assert {name for name, *_ in environment_differences(recorded, other)} == recorded.keys()


@pytest.mark.parametrize(
    ("text", "cpu", "features"),
    [
        (
            "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n"
            "stepping\t: 1\nflags\t\t: fpu smep avx2 avx512_bf16 amx_bf16\n\n"
            "processor\t: 1\nmodel name\t: other\n",
            "AMD EPYC, family 26, model 2, stepping 1",
            "amx_bf16 avx2 avx512_bf16",
        ),
        (
            "processor\t: 0\nFeatures\t: fp asimd bf16 sve\nCPU implementer\t: 0x41\n"
            "CPU part\t: 0xd40\n",
            "ARM, implementer 0x41, part 0xd40",
            "asimd bf16 sve",
        ),
        ("", "ARM", ""),
    ],
)
def test_the_processor_is_read_from_the_kernels_list(
    text: str, cpu: str, features: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(hardware, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware.platform, "processor", lambda: "ARM")

    assert hardware.processor.__wrapped__() == {"cpu": cpu, "cpu_features": features}


def test_without_such_a_list_the_platform_names_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_CPU_INFO", tmp_path / "missing")
    monkeypatch.setattr(hardware.platform, "processor", lambda: "arm")

    assert hardware.processor.__wrapped__() == {"cpu": "arm"}


def test_the_gpu_is_described_without_a_driver_or_cublas_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SimpleNamespace(name="NVIDIA H200", multi_processor_count=132, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(hardware, "_DRIVER", tmp_path / "version")
    described = hardware.gpu(torch.device("cuda"))

    assert described["gpu"] == "NVIDIA H200"
    assert described["gpu_multiprocessors"] == "132"
    assert described["gpu_capability"] == "9.0"
    assert described.keys() >= GPU.keys()
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\n"
    )
    assert hardware.gpu(torch.device("cuda"))["driver"] == "580.159.04"
