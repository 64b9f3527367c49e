"""Commands load a model as their options say, and a recorded one as it was recorded."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokentape as tt
from tests.made_models import make_adapter
from tests.samplers import GREEDY
from tokentape.replay.tapes.tape_replayer import ReplayRequest, TapeReplayer

Cli = Callable[..., tuple[int, str, str]]
PLAN = """
name: short
system_prompt: "Be brief."
limits: {max_new_tokens: 4}
tasks:
  - title: Look
    turns: [{message: "One?"}, {message: "Two?"}]
"""


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    return make_adapter(tiny_folder, tmp_path / "adapter")


def test_a_run_with_an_adapter_is_resumed_forked_and_verified_with_it(
    cli: Cli, adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    store = str(tmp_path / "runs.db")
    with (
        tt.open_store(store) as opened,
        tt.Investigation(
            tt.load_model(tiny_folder, adapter=adapter),
            store=opened,
            name="adapted",
            system_prompt="Be brief.",
        ) as run,
    ):
        run.chat("One?", **GREEDY)

    assert cli("resume", run.run_id, "--store", store)[0] == 0
    assert cli("verify", run.run_id, "--store", store)[0] == 0
    assert cli("regenerate", run.run_id, "--store", store)[0] == 0
    assert cli("fork", run.run_id, "--at-turn", "1", "--store", store)[0] == 0
    code, out, _ = cli("verify", run.run_id, "--store", store, "--adapter", "")
    assert (code, "INCOMPARABLE" in out) == (1, True)
    with tt.open_store(store) as opened:
        runs = [opened.recording(each.run_id) for each in opened.summaries()]
        assert [each.started().loading for each in runs] == [{"adapter": adapter.name}] * 2


@pytest.mark.parametrize("command", ["verify", "retrace", "regenerate", "calibrate", "resume"])
def test_a_model_of_the_hub_that_a_recording_names_is_not_downloaded(
    command: str, cli: Cli, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: Any, **__: Any) -> Any:
        raise AssertionError("this is a request")

    store = str(tmp_path / "runs.db")
    lm = tt.load_model(tiny_folder)
    lm = tt.LoadedModel(lm.model, lm.tokenizer, "someone/tiny")
    with (
        tt.open_store(store) as opened,
        tt.Investigation(lm, store=opened, name="x", system_prompt="Be brief.") as run,
    ):
        run.chat("One?", **GREEDY)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    code, _, message = cli(command, run.run_id, "--store", store)

    assert (code, message.count("\n")) == (2, 1)
    assert "no model 'someone/tiny' on this machine" in message
    assert "--model" in message


def test_a_run_computed_in_float32_is_resumed_forked_and_verified_with_narrow_weights(
    cli: Cli, tiny_folder: Path, tmp_path: Path
) -> None:
    plan, store = tmp_path / "plan.yaml", str(tmp_path / "runs.db")
    plan.write_text(PLAN)
    options = ["--dtype", "bfloat16", "--compute-dtype", "float32"]

    assert cli("run", str(plan), "--model", str(tiny_folder), "--store", store, *options)[0] == 0
    with tt.open_store(store) as opened:
        run_id = opened.summaries()[0].run_id
    assert cli("resume", run_id, "--store", store)[0] == 0
    assert cli("verify", run_id, "--store", store)[0] == 0
    assert cli("regenerate", run_id, "--store", store)[0] == 0
    assert cli("fork", run_id, "--at-turn", "2", "--store", store)[0] == 0
    code, out, _ = cli("verify", run_id, "--store", store, "--compute-dtype", "")
    assert (code, "INCOMPARABLE" in out) == (1, True)
    with tt.open_store(store) as opened:
        runs = [opened.recording(each.run_id).started() for each in opened.summaries()]
    assert [each.dtype for each in runs] == ["float32"] * 2
    assert [each.loading for each in runs] == [
        {"compute_dtype": "float32", "dtype": "bfloat16"}
    ] * 2


def test_a_plan_is_run_with_the_options(
    cli: Cli, adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    plan, store = tmp_path / "plan.yaml", str(tmp_path / "runs.db")
    plan.write_text(PLAN)
    options = ["--adapter", str(adapter), "--device-map", '{"": "cpu"}', "--offline"]

    code, *_ = cli("run", str(plan), "--model", str(tiny_folder), "--store", store, *options)

    assert code == 0
    with tt.open_store(store) as opened:
        started = opened.recording(opened.summaries()[0].run_id).started()
    assert started.loading == {"adapter": adapter.name, "device_map": {"": "cpu"}}


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("--device-map", "{", "--device-map is no JSON"),
        ("--quantization", '{"quant_method": "none"}', "is not valid"),
        ("--quantization", "int3", "there is no quantization 'int3'"),
        ("--adapter", "./nothing", "there is no adapter folder"),
        ("--revision", "v1", "it has no revision"),
        ("--compute-dtype", "bfloat16", "float32 weights cannot be computed with in bfloat16"),
        ("--compute-dtype", "float31", "'float31' is not a floating-point dtype of torch"),
        ("--dtype", "float31", "'float31' is not a floating-point dtype of torch"),
        ("--dtype", "int8", "'int8' is not a floating-point dtype of torch"),
    ],
)
def test_an_option_that_cannot_be_met_is_one_line(
    option: str, value: str, fault: str, cli: Cli, tiny_folder: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    store = str(tmp_path / "runs.db")

    code, _, err = cli(
        "run", str(plan), "--model", str(tiny_folder), "--store", store, option, value
    )

    assert code == 2
    assert fault in " ".join(err.split())


def test_tapes_of_one_model_are_replayed_each_as_it_was_loaded(
    adapter: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """One child of pytest replays them all, and the second must not meet the model of the first."""
    tapes = {}
    shutil.copytree(adapter, tmp_path / "copy")
    adapters = {"plain": None, "adapted": adapter, "gone": tmp_path / "copy"}
    for name, chosen in adapters.items():
        with (
            tt.open_store("sqlite://") as store,
            tt.Investigation(
                tt.load_model(tiny_folder, adapter=chosen),
                store=store,
                name=name,
                system_prompt="Hi.",
            ) as run,
        ):
            run.chat("One?", **GREEDY)
            recording = store.recording(run.run_id)
            tapes[name] = tt.pack([recording], store, tmp_path / f"{name}.tape")
    shutil.rmtree(tmp_path / "copy")

    replayer = TapeReplayer()
    modes: list[Any] = ["verify", "retrace"]
    for mode in modes:
        outcomes = {
            name: replayer.replay(ReplayRequest(tape=str(tape), mode=mode))
            for name, tape in tapes.items()
        }
        assert [each.passes for each in outcomes.values()] == [True, True, False]
        assert "there is no adapter folder" in outcomes["gone"].runs[0].failure
