"""What only a recording names is read from this machine, and runs no code."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.made_models import COMMITS, make_adapter, make_hub
from tests.samplers import GREEDY
from tokentape.generation.models.recorded_model import load_as_recorded
from tokentape.recorder.events import RunStarted
from tokentape.store import DatabaseStore


@pytest.fixture
def started(tiny_folder: Path, store: DatabaseStore) -> RunStarted:
    with tt.Investigation(
        tt.load_model(tiny_folder), store=store, name="x", system_prompt="Hi."
    ) as run:
        run.chat("One?", **GREEDY)
    return store.recording(run.run_id).started()


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the addresses that were to be connected to, from here on."""
    addresses: list[Any] = []

    def refuse(_: socket.socket, address: Any) -> None:
        addresses.append(address)
        raise ValueError("there is no network in a test")

    def unknown(*address: Any, **_: Any) -> Any:
        addresses.append(address)
        raise ValueError("there is no network in a test")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    return addresses


def test_a_recorded_model_of_the_hub_is_not_downloaded(
    started: RunStarted, connected: list[Any]
) -> None:
    with pytest.raises(tt.ModelError, match="no model 'someone/tiny' on this machine"):
        load_as_recorded(None, replace(started, model="someone/tiny"))
    assert connected == []
    with pytest.raises(tt.ModelError, match="someone/tiny"):
        load_as_recorded("someone/tiny", replace(started, model="someone/tiny"))
    assert connected != []


def test_a_recorded_model_that_was_downloaded_is_loaded(
    started: RunStarted,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    connected: list[Any],
) -> None:
    make_hub(tmp_path / "hub", {"main": tiny_folder}, monkeypatch, name="someone/tiny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    lm = load_as_recorded(None, replace(started, model="someone/tiny"))

    assert lm.loading == {"revision": COMMITS["main"]}
    assert connected == []


def test_a_recording_without_a_model_loads_nothing(
    started: RunStarted, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_folder)
    with pytest.raises(tt.ModelError, match="the recording does not name its model"):
        load_as_recorded(None, replace(started, model=""))


@pytest.mark.parametrize(
    "name",
    [r"\\host\share\model", "//host/share/model", "https://host/model", "file:///model", "s3://m"],
)
def test_a_recorded_name_that_may_be_on_another_machine_is_not_looked_for(
    name: str, started: RunStarted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked(path: Path, **_: Any) -> Any:
        raise AssertionError(f"{path} was looked for")

    for each in ("is_dir", "exists", "stat", "is_file"):
        monkeypatch.setattr(Path, each, looked)
    for forged in (replace(started, model=name), replace(started, loading={"adapter": name})):
        with pytest.raises(tt.ModelError, match="may be on another machine"):
            load_as_recorded(None, forged)


@pytest.mark.parametrize(
    ("loading", "override", "refusal"),
    [
        ({"attn_implementation": "someone/kernel"}, {"attn_implementation": "eager"}, "code of"),
        ({"attn_implementation": "paged|a/b@c:d"}, {"attn_implementation": "eager"}, "code of"),
        ({"trust_remote_code": True}, {"trust_remote_code": False}, "is not run without"),
        (
            {"quantization": {"quant_method": "gptq", "bits": 4, "dataset": "c4"}},
            {"quantization": None},
            "another repository",
        ),
    ],
)
def test_what_runs_code_or_reads_elsewhere_needs_the_word_of_the_user(
    loading: dict[str, Any],
    override: dict[str, Any],
    refusal: str,
    started: RunStarted,
    tiny_folder: Path,
) -> None:
    for name in (None, str(tiny_folder)):
        with pytest.raises(tt.ModelError, match=refusal) as refused:
            load_as_recorded(name, replace(started, loading=loading))
        assert "\n" not in str(refused.value)
    load_as_recorded(None, replace(started, loading=loading), **override)  # type: ignore[typeddict-item]


def test_a_recorded_adapter_is_not_downloaded_for_a_model_that_the_user_names(
    started: RunStarted, tiny_folder: Path, connected: list[Any]
) -> None:
    forged = replace(started, loading={"adapter": "someone/adapter"})
    with pytest.raises(tt.ModelError, match="the adapter someone/adapter cannot be loaded"):
        load_as_recorded(str(tiny_folder), forged)
    assert connected == []
    with pytest.raises(tt.ModelError, match="the adapter someone/adapter cannot be loaded"):
        load_as_recorded(str(tiny_folder), forged, adapter="someone/adapter")
    assert connected != []


def test_an_adapter_whose_config_imports_a_module_is_refused(
    tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_folder, tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    described = json.loads(file.read_text())
    described |= {"megatron_config": {"a": 1}, "megatron_core": "antigravity"}
    file.write_text(json.dumps(described))

    with pytest.raises(tt.ModelError, match="names a module to import"):
        tt.load_model(tiny_folder, adapter=adapter)
    with pytest.raises(tt.ModelError, match="names a module to import"):
        tt.load_model(adapter)
