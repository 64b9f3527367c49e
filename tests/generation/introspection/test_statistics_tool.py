"""The statistics tool reads the model's own tensors and returns compact, traceable results."""

import json

import pytest
import torch

import tokentape as tt
from tokentape.generation.fingerprints import tensor_sha256
from tokentape.generation.introspection import WeightInspector
from tokentape.recorder.events import ToolCalled, ToolReturned
from tokentape.store import DatabaseStore

LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def inspector(lm: tt.LoadedModel) -> WeightInspector:
    return WeightInspector(lm.model)


def test_statistics_are_those_of_the_tensor(lm: tt.LoadedModel, inspector: WeightInspector) -> None:
    tensor = lm.model.get_parameter(LAYER)
    full = inspector.get_weight_statistics(LAYER)

    assert isinstance(full, dict)
    assert full["shape"] == list(tensor.shape)
    assert full["num_parameters"] == tensor.numel()
    assert full["mean"] == pytest.approx(tensor.mean().item())
    assert full["std"] == pytest.approx(tensor.std().item())
    assert (full["min"], full["max"]) == (tensor.min().item(), tensor.max().item())
    assert full["l2_norm"] == pytest.approx(tensor.norm().item())
    assert full["l1_norm"] == pytest.approx(tensor.abs().sum().item(), rel=1e-5)
    assert full["median"] == pytest.approx(tensor.quantile(0.5).item())
    assert sum(full["histogram"]["counts"]) == tensor.numel()
    assert len(full["histogram"]["edges"]) == full["histogram"]["bins"] + 1
    assert full["percentiles"]["95"] == pytest.approx(
        torch.quantile(tensor.reshape(-1), 0.95).item(), rel=1e-2
    )


def test_compact_is_a_quarter_of_full_at_most(
    lm: tt.LoadedModel, inspector: WeightInspector
) -> None:
    def tokens(compact: bool) -> int:
        found = inspector.get_weight_statistics(LAYER, compact=compact)
        return len(lm.tokenizer.encode(json.dumps(found)))

    assert tokens(compact=True) <= 0.25 * tokens(compact=False)
    assert list(inspector.get_weight_statistics(LAYER, compact=True)) == [
        "name",
        "shape",
        "num_parameters",
        "mean",
        "std",
        "min",
        "max",
        "l2_norm",
    ]


def test_a_list_in_is_a_list_out(inspector: WeightInspector) -> None:
    found = inspector.get_weight_statistics([LAYER, "model.norm"], compact=True)

    assert [each["name"] for each in found] == [LAYER, "model.norm.weight"]


def test_an_unknown_layer_names_the_nearest(inspector: WeightInspector) -> None:
    with pytest.raises(tt.ToolError, match=r"nearest are .*model\.layers\.1\.mlp\.up_proj\.weight"):
        inspector.get_weight_statistics("model.layer.1.mlp.up_proj")


def test_a_result_is_recorded_with_its_payload_and_the_tensor_it_read(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    call = tt.ToolCall(name="get_weight_statistics", arguments={"layer_name": LAYER})
    tools = tt.default_tools(lm)
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", tools=tools) as run:
        reply = run.chat("Look.", tool_calls=[call], max_new_tokens=2)
    recording = store.recording(run.run_id)
    events = [each.event for each in recording.events()]
    called = next(event for event in events if isinstance(event, ToolCalled))
    returned = next(event for event in events if isinstance(event, ToolReturned))
    payload = json.loads(store.blob(returned.payload_sha256))

    assert called.call_id == returned.call_id
    assert returned.error is None
    assert returned.content == reply.tool_results[0].content
    assert returned.content in recording.turns()[0].prompt_text
    assert "percentiles" in payload
    assert "percentiles" not in json.loads(returned.content)
    assert returned.tensors == (
        {
            "name": LAYER,
            "shape": [96, 64],
            "dtype": "float32",
            "sha256": tensor_sha256(lm.model.get_parameter(LAYER)),
        },
    )
    assert returned.content_tokens == len(lm.tokenizer.encode(returned.content))
