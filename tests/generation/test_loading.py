"""Revision, adapter, device map and offline loading: each is recorded, and replayed with."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import tokentape as tt
from benchmarks.tiny_models import tiny_model
from tests.generation.cold_runs import GREEDY
from tests.made_models import COMMITS, make_adapter, make_hub
from tokentape.generation.models.loading import load_tokenizer
from tokentape.generation.models.loading_settings import recorded_keywords
from tokentape.generation.models.quiet import local_files_alone
from tokentape.generation.models.recorded_model import load_as_recorded
from tokentape.store import DatabaseStore

NAME = "someone/tiny"


def recorded(lm: tt.LoadedModel, store: DatabaseStore) -> tt.Recording:
    with tt.Investigation(lm, store=store, name="loaded", system_prompt="Hi.") as run:
        run.chat("hello", **GREEDY)
    return store.recording(run.run_id)


def load_again(recording: tt.Recording, **overrides: Any) -> tt.LoadedModel:
    started = recording.started()
    return load_as_recorded(started.model, started, **overrides)


@pytest.fixture
def other_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """Return the folder of a model with other weights than those of `tiny_folder`."""
    lm = tt.load_model(tiny_folder)
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(1.5)
    lm.model.save_pretrained(tmp_path / "other")
    lm.tokenizer.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture
def hub(
    tiny_folder: Path, other_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    folders = {"main": tiny_folder, "v1": other_folder}
    make_hub(tmp_path / "hub", folders, monkeypatch, name=NAME)
    return tmp_path / "hub" / "models--someone--tiny"


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    return make_adapter(tiny_folder, tmp_path / "adapter")


def test_the_defaults_are_recorded_as_nothing(tiny_folder: Path, store: DatabaseStore) -> None:
    lm = tt.load_model(tiny_folder)

    assert lm.loading == {}
    assert recorded(lm, store).started().loading == {}


def test_a_moved_branch_of_the_hub_is_loaded_as_it_was_recorded(
    hub: Path, store: DatabaseStore
) -> None:
    recording = recorded(tt.load_model(NAME), store)
    (hub / "refs" / "main").write_text(COMMITS["v1"])

    assert recording.started().loading == {"revision": COMMITS["main"]}
    assert tt.verify(recording, load_again(recording)).verdict is tt.Verdict.VERIFIED
    assert tt.verify(recording, tt.load_model(NAME)).verdict is tt.Verdict.INCOMPARABLE


@pytest.mark.parametrize("revision", ["v1", COMMITS["v1"]])
def test_a_revision_is_recorded_as_its_commit(
    revision: str, hub: Path, other_folder: Path, store: DatabaseStore
) -> None:
    lm = tt.load_model(NAME, revision=revision, offline=True)
    other = tt.load_model(other_folder)

    assert lm.identity.weights == other.identity.weights
    assert recorded(lm, store).started().loading == {"revision": COMMITS["v1"]}
    assert len(load_tokenizer(NAME, revision=revision)) == len(lm.tokenizer)


def test_a_revision_does_not_belong_to_another_model(
    hub: Path, tiny_folder: Path, store: DatabaseStore
) -> None:
    recording = recorded(tt.load_model(NAME), store)

    lm = load_as_recorded(str(tiny_folder), recording.started())

    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


def test_an_adapter_is_loaded_as_it_was_recorded(
    adapter: Path, tiny_folder: Path, tmp_path: Path, store: DatabaseStore
) -> None:
    recording = recorded(tt.load_model(tiny_folder, adapter=adapter), store)
    other = make_adapter(tiny_folder, tmp_path / "other", seed=1)

    assert recording.started().loading == {"adapter": adapter.name}
    assert tt.verify(recording, load_again(recording)).verdict is tt.Verdict.VERIFIED
    assert tt.retrace(recording, load_again(recording)).verdict is tt.Verdict.EXACT
    for changed, now in ((str(other), other.name), ("", "none")):
        lm = load_again(recording, adapter=changed)
        for replay in (tt.verify, tt.retrace, tt.regenerate):
            report = replay(recording, lm)
            assert report.verdict is tt.Verdict.INCOMPARABLE
            assert report.causes[0].name == "adapters"
            assert f"the adapter {adapter.name} then, {now} now" in report.causes[0].sentence
            assert "lora_A" in report.causes[0].sentence


def test_a_bare_generator_records_how_its_model_was_loaded(
    adapter: Path, tiny_folder: Path, store: DatabaseStore
) -> None:
    """It gets the model and its name, and not what `load_model` returned."""
    lm = tt.load_model(tiny_folder, adapter=adapter)
    with tt.Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, model_name=lm.name)
        generator.generate("hello", **GREEDY)

    recording = store.recording(store.summaries()[0].run_id)
    assert recording.started().loading == {"adapter": adapter.name}
    assert tt.verify(recording, load_again(recording)).verdict is tt.Verdict.VERIFIED


def test_an_adapter_of_the_hub_is_recorded_with_its_commit(
    adapter: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: DatabaseStore,
) -> None:
    other = make_adapter(tiny_folder, tmp_path / "other", seed=1)
    folders = {"main": adapter, "v1": other}
    make_hub(tmp_path / "hub", folders, monkeypatch, name="someone/adapter")

    recording = recorded(tt.load_model(tiny_folder, adapter="someone/adapter"), store)
    first = tt.load_model(tiny_folder, adapter="someone/adapter@v1", offline=True)

    assert recording.started().loading == {"adapter": f"someone/adapter@{COMMITS['main']}"}
    assert tt.verify(recording, load_again(recording)).verdict is tt.Verdict.VERIFIED
    assert first.loading == {"adapter": f"someone/adapter@{COMMITS['v1']}"}
    assert first.identity.weights == tt.load_model(tiny_folder, adapter=other).identity.weights


def test_an_adapter_of_the_hub_without_a_tokenizer_has_that_of_its_base(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hub(tmp_path / "hub", {"main": adapter}, monkeypatch, name="someone/adapter")

    lm = tt.load_model("someone/adapter")

    assert lm.identity.weights == tt.load_model(adapter).identity.weights
    assert len(load_tokenizer("someone/adapter")) == len(lm.tokenizer)


def test_adapters_are_switched_between_turns(
    adapter: Path, tiny_folder: Path, store: DatabaseStore
) -> None:
    """The cache is not used across the switch, and each turn says which adapter was active."""
    lm = tt.load_model(tiny_folder, adapter=adapter)
    with tt.Investigation(lm, store=store, name="switched", system_prompt="Hi.") as run:
        run.chat("hello", **GREEDY)
        lm.model.disable_adapters()
        without = run.chat("hello", **GREEDY)
        lm.model.enable_adapters()
        run.chat("hello", **GREEDY)

    turns = store.recording(run.run_id).turns()
    keys = [turn.cache.key.get("adapters", "") for turn in turns if turn.cache is not None]
    assert [key.partition(" ")[0] for key in keys] == ["default", "disabled", "default"]
    assert without.cache.reason == "key_changed:adapters"


@pytest.mark.parametrize(
    ("keywords", "fault"),
    [
        ({"revision": "main"}, r"is not a model of the hub: it has no revision"),
        ({"adapter": "./nothing"}, r"there is no adapter folder \./nothing"),
        ({"adapter": "someone/nothing", "offline": True}, r"the adapter someone/nothing cannot"),
        ({"device": "meta", "device_map": "auto"}, r"device='meta' or device_map='auto', not both"),
        ({"quantization": "int9"}, r"no quantization 'int9'.*: the names are int8, int4"),
        ({"quantization": {"weights": "int8"}}, r"quantization .* is not valid"),
        (
            {"quantization": {"quant_method": "quanto", "weights": "x"}},
            # Without the package nothing says which weights it knows.
            r"is not valid: .*int4|needs the package optimum.quanto, which is not installed",
        ),
        ({"quantization": 8}, r"a short name, a mapping or a quantization config .* not int"),
    ],
)
def test_a_setting_that_cannot_be_met_is_one_line(
    keywords: dict[str, Any], fault: str, tiny_folder: Path
) -> None:
    with pytest.raises(tt.ModelError, match=fault) as refusal:
        tt.load_model(tiny_folder, **keywords)

    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_no_adapter_is_named(tiny_folder: Path) -> None:
    with pytest.raises(tt.ModelError, match=r"is not a PEFT adapter: it has no adapter_config"):
        tt.load_model(tiny_folder, adapter=tiny_folder)


def test_an_adapter_of_another_model_is_refused(
    adapter: Path, tmp_path: Path, tokenizer: Any
) -> None:
    deeper = tiny_model("llama", tokenizer, num_hidden_layers=4)
    deeper.model.save_pretrained(tmp_path / "deeper")
    deeper.tokenizer.save_pretrained(tmp_path / "deeper")

    with pytest.raises(tt.ModelError, match=r"does not fit the model: 2 missing tensors") as found:
        tt.load_model(tmp_path / "deeper", adapter=adapter)

    assert "\n" not in str(found.value)


@pytest.mark.parametrize("damage", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", ["", "{", "cut", "gone"])
def test_a_damaged_adapter_is_named(
    damage: str, content: str, adapter: Path, tiny_folder: Path
) -> None:
    file = adapter / damage
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] if content == "cut" else content.encode())
    if content == "gone":
        file.unlink()

    with pytest.raises(tt.ModelError, match=r"adapter") as refusal:
        tt.load_model(tiny_folder, adapter=adapter)

    assert "\n" not in str(refusal.value)


def test_a_missing_package_is_named_with_its_installation(
    tiny_folder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokentape.generation.models.model_names.find_spec", lambda name: None)
    monkeypatch.setattr("tokentape.generation.models.quantization.find_spec", lambda name: None)

    with pytest.raises(tt.ModelError, match=r"peft, which is not installed: pip .*\[adapters\]"):
        tt.load_model(tiny_folder, adapter=adapter)
    with pytest.raises(tt.ModelError, match=r"optimum.quanto.*: pip .*tokentape\[quantization\]"):
        tt.load_model(tiny_folder, quantization="int8")
    with pytest.raises(tt.ModelError, match=r"bitsandbytes.*: pip install bitsandbytes"):
        tt.load_model(tiny_folder, quantization={"load_in_4bit": True})


def test_what_is_not_on_this_machine_is_not_loaded_offline(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    assert tt.load_model(NAME, offline=True)
    with pytest.raises(tt.ModelError, match=r"no model 'someone/other' on this machine") as found:
        tt.load_model("someone/other", offline=True)
    assert "\n" not in str(found.value)


def test_loading_offline_in_overlapping_threads_leaves_the_switch_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    first, second = local_files_alone(True), local_files_alone(True)

    first.__enter__()
    with local_files_alone(False):
        second.__enter__()
        assert constants.HF_HUB_OFFLINE
    first.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE
    second.__exit__(None, None, None)

    assert not constants.HF_HUB_OFFLINE


def test_a_device_map_is_recorded_and_used_again(tiny_folder: Path, store: DatabaseStore) -> None:
    recording = recorded(tt.load_model(tiny_folder, device_map={"": "cpu"}), store)

    assert recording.started().loading == {"device_map": {"": "cpu"}}
    assert tt.verify(recording, load_again(recording)).verdict is tt.Verdict.VERIFIED


def test_a_compute_dtype_is_recorded_and_used_again(
    tiny_folder: Path, store: DatabaseStore
) -> None:
    recording = recorded(
        tt.load_model(tiny_folder, dtype="bfloat16", compute_dtype="float32"), store
    )

    assert recording.started().loading == {"compute_dtype": "float32", "dtype": "bfloat16"}
    assert tt.verify(recording, load_again(recording)).verdict is tt.Verdict.VERIFIED


def test_a_device_that_is_not_here_is_replaced_by_the_cpu() -> None:
    assert recorded_keywords({"device": "cuda:77", "revision": "x"}) == {"revision": "x"}
    with pytest.raises(tt.ModelError, match="loaded with 'magic', which is not known"):
        recorded_keywords({"magic": 1})


@pytest.mark.parametrize(
    "loading",
    [
        {"device": 5},
        {"device": None},
        {"adapter": ["x"]},
        {"adapter": "a\0b"},
        {"revision": {}},
        {"revision": "../.."},
        {"quantization": "int8"},
        {"quantization": {"quant_method": [1]}},
        {"device_map": 1},
        {"deterministic": "yes"},
        {"compute_dtype": "x\0"},
    ],
)
def test_a_forged_record_of_how_a_model_was_loaded_is_refused_in_one_line(
    loading: dict[str, Any], tiny_folder: Path, store: DatabaseStore
) -> None:
    started = recorded(tt.load_model(tiny_folder), store).started()

    with pytest.raises(tt.ModelError) as refusal:
        load_as_recorded(str(tiny_folder), replace(started, loading=loading))
    assert "\n" not in str(refusal.value)


def test_the_base_of_an_adapter_can_be_elsewhere(
    adapter: Path, tiny_folder: Path, tmp_path: Path, store: DatabaseStore
) -> None:
    recording = recorded(tt.load_model(tiny_folder, adapter=adapter), store)
    shutil.copytree(tiny_folder, tmp_path / "moved")

    lm = load_as_recorded(str(tmp_path / "moved"), recording.started())

    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
