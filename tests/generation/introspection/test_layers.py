"""Layers are found by number, by full name, and by the names of TransformerLens."""

from collections.abc import Callable

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import FAMILIES
from tokentape.generation.hooks.layers import decoder_layers, find_layer, output_of

MakeLM = Callable[..., tt.LoadedModel]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_decoder_layers(make_lm: MakeLM, family: str) -> None:
    model = make_lm(family).model
    layers = decoder_layers(model)

    assert len(layers) == model.config.num_hidden_layers
    assert [model.get_submodule(name) for name, _ in layers] == [layer for _, layer in layers]
    assert find_layer(model, 0) == layers[0]
    assert find_layer(model, "1") == layers[1]
    assert find_layer(model, "-1") == layers[-1]
    assert find_layer(model, layers[1][0]) == layers[1]
    assert find_layer(model, "blocks.1.hook_resid_post") == layers[1]


@pytest.mark.parametrize(
    ("family", "name", "found"),
    [
        ("llama", "blocks.1.attn", "model.layers.1.self_attn"),
        ("llama", "blocks.1.hook_mlp_out", "model.layers.1.mlp"),
        ("gpt2", "blocks.2.hook_attn_out", "transformer.h.2.attn"),
        ("gpt2", "blocks.-1.mlp", "transformer.h.2.mlp"),
        ("qwen3-next", "blocks.0.attn", "model.layers.0.linear_attn"),
        ("qwen3-next", "blocks.3.attn", "model.layers.3.self_attn"),
        ("mamba", "blocks.0.hook_attn_out", "backbone.layers.0.mixer"),
        ("gemma3", "blocks.0.attn", "model.layers.0.self_attn"),
        ("gemma3", "blocks.0.hook_attn_out", "model.layers.0.post_attention_layernorm"),
        ("gemma3", "blocks.0.hook_mlp_out", "model.layers.0.post_feedforward_layernorm"),
        ("llama", " model.layers.0.mlp ", "model.layers.0.mlp"),
    ],
)
def test_names_of_transformer_lens_are_understood(
    make_lm: MakeLM, family: str, name: str, found: str
) -> None:
    model = make_lm(family).model

    assert find_layer(model, name) == (found, model.get_submodule(found))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "qwen3-next"])
def test_the_outputs_of_the_components_add_up_to_the_residual_stream(
    make_lm: MakeLM, family: str
) -> None:
    model = make_lm(family).model
    given: dict[str, torch.Tensor] = {}
    names = ("blocks.0.hook_resid_post", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out")
    names += ("blocks.1.hook_resid_post",)
    for name in names:
        module = find_layer(model, name)[1]
        module.register_forward_hook(
            lambda _module, _args, output, name=name: given.update({name: output_of(output)})
        )
    with torch.no_grad():
        model(torch.tensor([[5, 6, 7]]))
    before, attention, mlp, after = (given[name].reshape(3, -1) for name in names)

    torch.testing.assert_close(before + attention + mlp, after)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("model.layer.1.mlp", r"nearest are .*model\.layers\.1\.mlp"),
        ("model.layers.1.mlp.up_proj.weight", r"nearest are .*model\.layers\.1\.mlp\.up_proj"),
        ("3", "there is no layer 3: this model has 3 layers, from 0 to 2"),
        (-4, "there is no layer -4"),
        ("blocks.7.mlp", "there is no layer 7"),
        ("blocks.1.hook_q", r"there are blocks\.1\.hook_resid_post"),
        ("", "there is no layer ''"),
        ("9" * 5000, "there is no layer '999"),
        ("\u0663\u0663", "there is no layer"),
        (True, "not True"),
        (None, "not None"),
        (1.0, "not 1.0"),
    ],
)
def test_an_unknown_layer_is_refused_with_the_nearest(
    lm: tt.LoadedModel, name: object, complaint: str
) -> None:
    with pytest.raises(tt.ToolError, match=complaint):
        find_layer(lm.model, name)  # type: ignore[arg-type]


def test_an_unknown_component_is_rejected_with_those_of_the_layer(make_lm: MakeLM) -> None:
    with pytest.raises(tt.ToolError, match="it has norm, mixer"):
        find_layer(make_lm("mamba").model, "blocks.0.mlp")


def test_a_model_of_one_layer_is_numbered_too(make_lm: MakeLM) -> None:
    model = make_lm("llama", num_hidden_layers=1).model

    assert find_layer(model, 0)[0] == find_layer(model, -1)[0] == "model.layers.0"


def test_a_model_without_layers_says_so() -> None:
    with pytest.raises(tt.ToolError, match="Linear has no numbered layers"):
        decoder_layers(torch.nn.Linear(2, 2))
