"""The tools' views are short and correct, and the tools do not disturb the conversation."""

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import FAMILIES, random_ids
from tokentape.generation.cache.key import cache_key
from tokentape.generation.hf.attention_kernel import using_attention
from tokentape.generation.history.spelling import spell_token
from tokentape.generation.hooks.forward_positions import (
    DECODE,
    ForwardPositions,
    track_positions,
)
from tokentape.generation.introspection import ActivationMonitor
from tokentape.generation.introspection.toolset import IntrospectionTools
from tokentape.store import DatabaseStore

MakeLM = Callable[..., tt.LoadedModel]
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4}


def bound(lm: tt.LoadedModel, ids: Sequence[int], **more: Any) -> IntrospectionTools:
    tools = tt.default_tools(lm)
    tools.inspector.bind(ids=lambda: ids, turn=lambda: 3, **more)
    return tools


def answer(tools: tt.ToolInterface, name: str, **arguments: Any) -> Any:
    result = tools.call(name, arguments)
    assert result.error is None, result.error
    return json.loads(result.content)


@pytest.mark.demo_model
def test_compact_is_a_quarter_of_full_at_most(demo_lm: tt.LoadedModel) -> None:
    tools = bound(demo_lm, demo_lm.tokenizer.encode("Which layer is this, and what is in it?"))
    weight = "model.layers.3.mlp.up_proj.weight"
    asked: list[tuple[str, dict[str, Any]]] = [
        ("get_weight_statistics", {"layer_name": weight}),
        ("get_weight_statistics", {"layer_name": [weight, "model.norm.weight"]}),
        ("get_activation_statistics", {"layer_name": "3", "recompute": True}),
        ("get_activation_statistics", {"layer_name": ["3", "-1"], "recompute": True}),
    ]
    for name, arguments in asked:
        compact, full = (
            len(demo_lm.tokenizer.encode(tools.call(name, arguments | {"compact": each}).content))
            for each in (True, False)
        )
        assert compact <= 0.25 * full, (name, compact, full)


def test_the_payload_is_complete_if_the_view_is_compact(lm: tt.LoadedModel) -> None:
    tools = bound(lm, random_ids(20, 1))
    for name, layer in (("get_weight_statistics", "lm_head"), ("get_activation_statistics", 1)):
        recompute = {"recompute": True} if name.startswith("get_act") else {}
        result = tools.call(name, {"layer_name": layer, "compact": True, **recompute})

        assert "percentiles" not in json.loads(result.content)
        assert "percentiles" in json.loads(result.payload)
        assert json.loads(result.payload)["computed_in"] == "float32"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_activation_statistics", {"layer_name": "1", "recompute": True}),
        ("get_attention_patterns", {"layer": "1"}),
        ("get_logit_lens", {"layers": ["1"]}),
    ],
)
def test_activations_without_a_conversation_are_an_error(
    lm: tt.LoadedModel, name: str, arguments: dict[str, Any]
) -> None:
    tools = tt.default_tools(lm)

    assert "there is no conversation" in str(tools.call(name, arguments).error)
    tools.inspector.bind(ids=lambda: (), turn=lambda: 0)
    error = str(tools.call(name, arguments).error)
    assert "the conversation is empty" in error or "the sequence has 0 tokens" in error


def test_activations_of_cached_tokens_have_to_be_recomputed(lm: tt.LoadedModel) -> None:
    ids = random_ids(30, 1)
    monitor = ActivationMonitor(lm.model, [1], full=True)
    tools = bound(lm, ids, monitor=lambda: monitor)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate(ids[:20], **GREEDY)

    error = tools.call("get_activation_statistics", {"layer_name": 1}).error
    assert "cached tokens are not computed: use recompute=True" in str(error)
    with monitor.observe(forward := ForwardPositions(end=20)), track_positions(lm.model, forward):
        said = generator.generate(ids, **GREEDY)["num_tokens"]
    seen = answer(tools, "get_activation_statistics", layer_name=1)
    # The first 20 came from the cache, and the last token is never forwarded.
    assert (seen["source"], seen["positions"]) == ("prefill", [20, 29 + said])
    assert seen["positions_covered"] == 9 + said
    assert tools.inspector.take_events() == []
    again = answer(tools, "get_activation_statistics", layer_name=1, recompute=True)
    assert (again["source"], again["positions"], again["positions_covered"]) == (
        "recomputed",
        [0, 30],
        30,
    )
    (event,) = tools.inspector.take_events()
    assert (event.source, event.turn, event.start, event.end) == ("recomputed", 3, 0, 30)
    assert tools.inspector.take_events() == []


def test_recomputing_in_chunks_gives_what_one_forward_gives(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random_ids(50, 1)
    whole = answer(bound(lm, ids), "get_activation_statistics", layer_name=[0, 2], recompute=True)
    monkeypatch.setattr("tokentape.generation.introspection.recompute._CHUNK_TOKENS", 8)
    parts = answer(bound(lm, ids), "get_activation_statistics", layer_name=[0, 2], recompute=True)

    for one, other in zip(whole, parts, strict=True):
        assert one["std"] == pytest.approx(other["std"], rel=1e-3)
        assert one["abs_max_position"] == other["abs_max_position"]


@pytest.mark.parametrize("family", FAMILIES)
def test_tools_in_the_middle_of_a_conversation_change_no_bit_of_it(
    make_lm: MakeLM, family: str
) -> None:
    lm = make_lm(family)
    ids = random_ids(24, 1)
    said: list[list[torch.Tensor]] = [[], []]
    reused = []
    for looks, logits in enumerate(said):
        generator = tt.ManualGenerator(lm.model, lm.tokenizer)
        first = generator.generate(ids, **GREEDY)
        longer = [*ids, *first["generated_tokens"], 9, 10]
        if looks:
            tools = bound(lm, ids)
            key = cache_key(lm.model)
            assert answer(tools, "get_logit_lens", layers=[0, -1])["layers"]
            answer(tools, "get_activation_statistics", layer_name=[0, -1], recompute=True)
            tools.call("get_attention_patterns", {"layer": -1})
            assert cache_key(lm.model) == key
        result = generator.generate(
            longer, callback=lambda _, each, logits=logits: logits.append(each.clone()), **GREEDY
        )
        reused.append(result["cache"].reused_tokens)

    assert reused[0] == reused[1]
    assert all(torch.equal(*pair) for pair in zip(*said, strict=True))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma3", "mistral", "qwen3-next"])
@pytest.mark.parametrize("position", [0, 5, -1])
def test_attention_is_that_of_an_eager_forward(make_lm: MakeLM, family: str, position: int) -> None:
    lm = make_lm(family)
    ids = random_ids(30, 1)
    with torch.no_grad(), using_attention(lm.model, "eager"):
        given = lm.model(torch.tensor([ids]), output_attentions=True).attentions[-1]
    row = given[0, 1, position]
    shown = answer(
        bound(lm, ids), "get_attention_patterns", layer=-1, head=1, position=position, top=3
    )

    best = row.topk(min(3, len(row[: position % 30 + 1])))
    assert [each["weight"] for each in shown["top"]] == pytest.approx(
        best.values.tolist(), rel=2e-3, abs=1e-6
    )
    assert shown["top"][0]["position"] == best.indices[0]
    assert len(shown["entropy_by_head"]) == 4
    assert lm.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("family", "layer", "complaint"),
    [
        ("mamba", 0, "has no attention weights: it is a MambaMixer"),
        ("qwen3-next", 0, "has no attention weights: it is a Qwen3NextGatedDeltaNet"),
        ("llama", "lm_head", "has no attention weights: it is a Linear"),
        ("llama", 8, "there is no layer 8"),
    ],
)
def test_a_layer_without_attention_weights_is_an_error(
    make_lm: MakeLM, family: str, layer: int | str, complaint: str
) -> None:
    lm = make_lm(family)
    error = bound(lm, random_ids(9, 1)).call("get_attention_patterns", {"layer": layer}).error

    assert complaint in str(error)
    assert not lm.model._forward_pre_hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logit_lens_at_the_last_layer_gives_the_model_s_logits(
    make_lm: MakeLM, family: str
) -> None:
    lm = make_lm(family)
    ids = random_ids(12, 1)
    with torch.no_grad():
        expected = lm.model(torch.tensor([ids])).logits[0].softmax(dim=-1)
    for position in (0, 7, -1):
        shown = answer(bound(lm, ids), "get_logit_lens", layers=[-1], position=position, top=3)
        best = expected[position].topk(3)
        assert [each["probability"] for each in shown["layers"][0]["top"]] == pytest.approx(
            best.values.tolist(), rel=2e-3
        )
        spelled = spell_token(lm.tokenizer, int(best.indices[0]))
        assert shown["layers"][0]["top"][0]["token"] == spelled


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("get_logit_lens", {"layers": ["model.layers.0.mlp.up_proj"]}, "choose decoder layers"),
        ("get_logit_lens", {"layers": []}, "give 1 to 64 layers"),
        ("get_logit_lens", {"layers": [0], "position": 12}, "there is no position 12"),
        ("get_logit_lens", {"layers": [0], "top": 0}, "top must be an integer from 1 to 50"),
        ("get_attention_patterns", {"layer": 0, "head": 4}, "there is no head 4"),
        ("get_attention_patterns", {"layer": 0, "position": -13}, "there is no position -13"),
        ("get_activation_statistics", {"layer_name": ["0"] * 65}, "at most 64"),
        ("get_singular_values", {"layer_name": "model.norm"}, "is not a matrix"),
        ("get_singular_values", {"layer_name": "lm_head", "top": 0}, "of at least 1"),
        ("list_layers", {"pattern": "((("}, "it is not a regular expression"),
        ("list_layers", {"pattern": "x" * 201}, "at most 200 characters"),
    ],
)
def test_invalid_arguments_get_an_error_that_says_why(
    lm: tt.LoadedModel, name: str, arguments: dict[str, Any], complaint: str
) -> None:
    assert complaint in str(bound(lm, random_ids(12, 1)).call(name, arguments).error)


def test_singular_values_are_those_of_torch(lm: tt.LoadedModel) -> None:
    weight = lm.model.model.layers[0].mlp.up_proj.weight.detach()
    values = torch.linalg.svdvals(weight.double())
    shares = values / values.sum()
    shown = answer(
        tt.default_tools(lm), "get_singular_values", layer_name="model.layers.0.mlp.up_proj", top=5
    )

    assert shown["method"] == "exact"
    assert shown["singular_values"] == pytest.approx(values[:5].tolist(), rel=1e-4)
    stable = (values.square().sum() / values[0] ** 2).item()
    assert shown["stable_rank"] == pytest.approx(stable, rel=1e-4)
    effective = (-(shares * shares.log()).sum()).exp().item()
    assert shown["effective_rank"] == pytest.approx(effective, rel=1e-4)


def test_large_matrices_get_a_randomized_svd_and_random_state_is_kept(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokentape.generation.introspection.spectrum._EXACT_ROWS_MAX", 8)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    shown = answer(tt.default_tools(lm), "get_singular_values", layer_name="lm_head", top=2)
    values = torch.linalg.svdvals(lm.model.lm_head.weight.detach())

    assert torch.equal(before, torch.get_rng_state())
    assert (shown["method"], shown["effective_rank"]) == ("randomized", None)
    assert shown["singular_values"] == pytest.approx(values[:2].tolist(), rel=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_summary_counts_every_parameter_once(make_lm: MakeLM, family: str) -> None:
    lm = make_lm(family)
    shown = answer(tt.default_tools(lm), "get_architecture_summary")

    assert shown["parameters"] == sum(each.numel() for each in lm.model.parameters())
    assert shown["decoder_layers"] == lm.model.config.num_hidden_layers


def test_layers_are_listed_by_glob_by_expression_and_in_groups(make_lm: MakeLM) -> None:
    lm = make_lm("llama", num_hidden_layers=9)
    tools = tt.default_tools(lm)
    groups = answer(tools, "list_layers")["groups"]
    glob = answer(tools, "list_layers", pattern="*.3.mlp.*")
    expression = answer(tools, "list_layers", pattern=r"[37]\.mlp\.up")
    many = answer(tools, "list_layers", pattern="*")

    assert {"name": "model.layers.*.mlp.up_proj.weight", "shape": [96, 64], "count": 9} in groups
    assert glob["matching"] == 3
    assert list(expression["layers"]) == [f"model.layers.{n}.mlp.up_proj.weight" for n in (3, 7)]
    assert (len(many["layers"]), many["not_listed"]) == (40, many["matching"] - 40)


def test_forwards_wait_for_a_tool_that_exceeded_its_time_limit(lm: tt.LoadedModel) -> None:
    ids = random_ids(12, 1)
    tools = bound(lm, ids)
    started, go_on = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            started.set()
            go_on.wait(10)

    forward = ForwardPositions(start=30, end=30, source=DECODE)
    handle = lm.model.model.layers[1].register_forward_hook(hold)
    go_on.set()
    tools.call("get_attention_patterns", {"layer": 0})  # probes the cache beforehand
    started.clear()
    go_on.clear()
    with track_positions(lm.model, forward), torch.no_grad():
        call = {"layer": 0}
        result = tools.call("get_attention_patterns", call, seconds_max=0.05)
        assert "no answer" in str(result.error)
        assert started.wait(10)
        threading.Timer(0.1, go_on.set).start()
        lm.model(torch.tensor([[5]]))
        assert lm.model.config._attn_implementation == "sdpa"
    handle.remove()

    assert (forward.start, forward.end, forward.source) == (30, 31, DECODE)


def test_an_investigation_records_the_tensors_that_were_read(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    call = tt.ToolCall(name="get_singular_values", arguments={"layer_name": "lm_head", "top": 1})
    tools = tt.default_tools(lm)
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", tools=tools) as run:
        reply = run.chat("Look.", tool_calls=[call], max_new_tokens=2)
    (result,) = reply.tool_results

    assert [each["name"] for each in result.tensors] == ["lm_head.weight"]
    assert len(result.tensors[0]["sha256"]) == 64
