"""Replays under other adapters (LoRA) than recorded say so."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.replay.fault_case import Case, rerecord
from tests.replay.conversations import converse
from tokentape.generation.checks import check_adapters
from tokentape.generation.fingerprints.adapter_state import active_adapters
from tokentape.recorder.events import CacheDecided, Event
from tokentape.replay.reports.terminal import render
from tokentape.store import DatabaseStore


class AdaptedLinear(torch.nn.Module):
    """A linear layer with adapters, with the attributes of a LoRA layer of peft."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(3)
        self.lora = torch.nn.ParameterDict(
            {
                name: torch.randn(base.weight.shape, generator=generator) * 0.2
                for name in ("default", "other")
            }
        )
        self.active_adapter: list[str] = ["default"]
        self.merged_adapters: list[str] = []
        self.disable_adapters = False
        self.scaling = {"default": 1.0, "other": 1.0}

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.base(states)
        for name in [] if self.disable_adapters else self.active_adapter:
            output = output + self.scaling[name] * (states @ self.lora[name].T)
        return output


@pytest.fixture
def layer(lm: tt.LoadedModel) -> AdaptedLinear:
    attention = lm.model.model.layers[1].self_attn
    attention.q_proj = AdaptedLinear(attention.q_proj)
    lm.model.requires_grad_(False)
    adapted: AdaptedLinear = attention.q_proj
    return adapted


def activate_other(layer: AdaptedLinear) -> None:
    layer.active_adapter = ["other"]


def disable(layer: AdaptedLinear) -> None:
    layer.disable_adapters = True


def scale(layer: AdaptedLinear) -> None:
    layer.scaling = {"default": 2.0, "other": 1.0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            activate_other,
            "not those that were recorded: default then, other now",
        ),
        (disable, "default then, disabled now"),
        (scale, "the adapters default have another scaling"),
    ],
)
def test_other_adapters_are_the_cause(
    change: Callable[[AdaptedLinear], None],
    sentence: str,
    layer: AdaptedLinear,
    lm: tt.LoadedModel,
    store: DatabaseStore,
) -> None:
    recording = converse(lm, store, turns=2)
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
    change(layer)

    for replay in (tt.verify, tt.regenerate):
        report = replay(recording, lm)
        assert report.verdict is tt.Verdict.INCOMPARABLE
        assert report.reason == "not what was recorded: adapters"
        assert [each.name for each in report.causes] == ["adapters"]
        assert sentence in report.causes[0].sentence
    ignoring = tt.verify(recording, lm, ignore=["adapters"])
    assert ignoring.verdict in (tt.Verdict.DRIFTED, tt.Verdict.DIVERGED)
    assert "prompt" not in ignoring.reason


def test_turns_are_verified_under_the_adapters_of_each(
    layer: AdaptedLinear, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="n", system_prompt="Be kind.") as run:
        run.chat("One?", max_new_tokens=3)
        activate_other(layer)
        run.chat("Two?", max_new_tokens=3)
    recording = store.recording(run.run_id)
    first, second = recording.turns()
    assert first.cache is not None
    assert second.cache is not None
    assert first.cache.key["adapters"].split()[0] == "default"
    assert second.cache.key["adapters"].split()[0] == "other"
    assert second.cache.reason == "key_changed:adapters"

    assert tt.verify(recording, lm, turns=[2]).verdict is tt.Verdict.VERIFIED
    assert tt.verify(recording, lm).verdict is tt.Verdict.INCOMPARABLE
    layer.active_adapter = ["default"]
    assert tt.verify(recording, lm, turns=[1]).verdict is tt.Verdict.VERIFIED
    disable(layer)
    assert tt.verify(recording, lm).reason == "not what was recorded: adapters"


def test_a_recording_that_does_not_say_its_adapters_is_not_blamed_on_the_prompt(
    layer: AdaptedLinear, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Those of 0.1.0 do not. Without adapters the key says nothing of them: they are `none`."""
    recording = converse(lm, store, turns=1)

    def forget(event: Event) -> Event:
        return dataclasses.replace(event, key={}) if isinstance(event, CacheDecided) else event

    old = rerecord(Case(recording, lm, store), forget).recording
    assert tt.verify(old, lm).verdict is tt.Verdict.VERIFIED
    activate_other(layer)

    report = tt.verify(old, lm)

    assert report.verdict in (tt.Verdict.DRIFTED, tt.Verdict.DIVERGED)
    assert report.causes[0].name == "unknown"
    assert "does not say which adapters were active (other now)" in report.causes[0].sentence


FAMILIES: dict[str, list[str]] = {
    "llama": ["q_proj", "v_proj"],
    "gpt2": ["c_attn"],
    "gemma3": ["q_proj"],
    "mamba": ["in_proj"],
    "qwen3-next": ["q_proj", "out_proj"],
}


# peft uses names of transformers that are deprecated.
@pytest.mark.filterwarnings("default::FutureWarning")
@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_peft_are_recorded_and_their_adapters_named(
    family: str, make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    peft: Any = pytest.importorskip("peft")
    base = make_lm(family)

    def config() -> Any:
        return peft.LoraConfig(
            r=4, target_modules=FAMILIES[family], init_lora_weights=False, task_type="CAUSAL_LM"
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = peft.get_peft_model(base.model, config())
        model.add_adapter("other", config())
    model.set_adapter("default")
    lm = tt.LoadedModel(model.eval(), base.tokenizer, "peft")
    ids = lm.tokenizer.encode("Hello there", return_tensors="pt")
    expected = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]

    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    reply = generator.generate(ids, max_new_tokens=4, do_sample=False)
    assert reply["generated_tokens"] == expected.tolist()
    with tt.Investigation(lm, store=store, name="n", system_prompt="Be kind.", seed=1) as run:
        run.chat("One?", max_new_tokens=4)
        run.chat("Two?", max_new_tokens=4)
    recording = store.recording(run.run_id)
    floor = None if family not in ("mamba", "qwen3-next") else tt.calibrate(recording, lm)
    assert tt.verify(recording, lm, floor=floor).verdict is tt.Verdict.VERIFIED
    model.set_adapter("other")
    model.eval()
    report = tt.verify(recording, lm, floor=floor)
    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert "default then, other now" in report.causes[0].sentence
    state = active_adapters(model)
    retraced = tt.retrace(recording, lm)
    assert retraced.verdict is tt.Verdict.EXACT, retraced.reason
    assert active_adapters(model) == state


@pytest.mark.filterwarnings("default::FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adapters_that_were_switched_between_turns_are_switched_again_in_a_retrace(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore, dtype: torch.dtype
) -> None:
    peft: Any = pytest.importorskip("peft")
    base = make_lm("llama", dtype=dtype)

    def config() -> Any:
        return peft.LoraConfig(
            r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = peft.get_peft_model(base.model, config())
        model.add_adapter("other", config())
    lm = tt.LoadedModel(model.eval(), base.tokenizer, "peft")
    with tt.Investigation(lm, store=store, name="n", system_prompt="Be kind.", seed=1) as run:
        run.chat("One?", max_new_tokens=4)
        model.set_adapter("other")
        model.eval()
        run.chat("Two?", max_new_tokens=4)
        with model.disable_adapter():
            run.chat("Three?", max_new_tokens=4)
        model.set_adapter("default")
        model.eval()
        run.chat("Four?", max_new_tokens=4)
    recording = store.recording(run.run_id)
    keys = [turn.cache.key["adapters"] for turn in recording.turns() if turn.cache is not None]
    assert [key.partition(" ")[0] for key in keys] == ["default", "other", "disabled", "default"]
    assert tt.verify(recording, lm).verdict is tt.Verdict.INCOMPARABLE
    needed = [each.requires_grad for each in model.parameters()]

    report = tt.retrace(recording, lm)

    assert report.verdict is tt.Verdict.EXACT, render(report)
    assert active_adapters(model) == keys[0]
    assert [each.requires_grad for each in model.parameters()] == needed


@pytest.mark.filterwarnings("default::FutureWarning")
def test_other_weights_of_an_adapter_are_the_cause_of_a_retrace(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore
) -> None:
    peft: Any = pytest.importorskip("peft")

    def adapted(seed: int) -> tt.LoadedModel:
        base = make_lm("llama", dtype=torch.bfloat16)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = peft.LoraConfig(
                r=4, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
            )
            model = peft.get_peft_model(base.model, config)
        return tt.LoadedModel(model.eval(), base.tokenizer, "peft")

    recording = converse(adapted(5), store)

    report = tt.retrace(recording, adapted(6))

    assert report.verdict is tt.Verdict.INCOMPARABLE
    assert report.causes[0].name == "weights"
    assert "lora" in report.causes[0].sentence
    assert report.rows[0].turn == 1


class Peft(torch.nn.Module):
    """A model with the attributes of one of peft that has two adapters."""

    def __init__(self, model: Any, **traits: object) -> None:
        super().__init__()
        self.model = model
        self.peft_config = {"default": SimpleNamespace(), "tuned": SimpleNamespace(**traits)}
        self.active_adapters = ["tuned"]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)


@pytest.mark.parametrize(
    "trait", [{"is_prompt_learning": True}, {"alora_invocation_tokens": [5, 6]}]
)
def test_adapters_that_do_not_act_token_by_token_are_refused_before_a_run(
    trait: dict[str, object], lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    model = Peft(lm.model, **trait).eval()
    adapted = dataclasses.replace(lm, model=model)  # type: ignore[arg-type]
    with pytest.raises(tt.ModelError, match="the adapter 'tuned'"):
        tt.Investigation(adapted, store=store, name="t", system_prompt="Hi.").__enter__()
    with pytest.raises(tt.ModelError, match="the adapter 'tuned'"):
        tt.capture(model, [5, 6], 1, (0, 1))  # type: ignore[arg-type]
    assert store.summaries() == []
    model.active_adapters = ["default"]
    check_adapters(model)
