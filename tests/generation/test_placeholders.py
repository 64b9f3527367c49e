"""Placeholders are replaced by weight names of the model, or an error says why not."""

from collections.abc import Callable

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import tokentape as tt
from tokentape.generation.plans import resolve

Make = Callable[..., tt.LoadedModel]


def named(lm: tt.LoadedModel, place: str) -> str:
    return str(resolve({"layer_name": place}, lm.model)["layer_name"])


@pytest.mark.parametrize(
    ("family", "mlp", "attention"),
    [
        ("llama", "model.layers.2.mlp.down_proj.weight", "model.layers.2.self_attn.o_proj.weight"),
        ("qwen3", "model.layers.2.mlp.down_proj.weight", "model.layers.2.self_attn.o_proj.weight"),
        ("gemma3", "model.layers.2.mlp.down_proj.weight", "model.layers.2.self_attn.o_proj.weight"),
        (
            "mistral",
            "model.layers.2.mlp.down_proj.weight",
            "model.layers.2.self_attn.o_proj.weight",
        ),
        ("gpt2", "transformer.h.2.mlp.c_proj.weight", "transformer.h.2.attn.c_proj.weight"),
        (
            "qwen3-next",
            "model.layers.3.mlp.experts.down_proj",
            "model.layers.3.self_attn.o_proj.weight",
        ),
    ],
)
def test_the_output_matrices_of_a_layer_are_found(
    make_lm: Make, family: str, mlp: str, attention: str
) -> None:
    lm = make_lm(family)

    assert named(lm, "{mlp:last}") == named(lm, "{layer:last}") == mlp
    assert named(lm, "{attention:last}") == attention
    assert mlp in dict(lm.model.named_parameters())


def test_a_layer_without_an_mlp_is_named_by_its_output_matrix_and_has_no_components(
    make_lm: Make,
) -> None:
    mamba = make_lm("mamba")

    assert named(mamba, "{layer:0}") == "backbone.layers.0.mixer.out_proj.weight"
    with pytest.raises(
        tt.PromptError, match=r"\{attention:0\}: layer 0 of this mamba model has no attention"
    ):
        named(mamba, "{attention:0}")


def test_linear_attention_is_attention(make_lm: Make) -> None:
    hybrid = make_lm("qwen3-next")

    assert named(hybrid, "{attention:0}") == "model.layers.0.linear_attn.out_proj.weight"


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("0", 0),
        ("7", 7),
        ("first", 0),
        ("middle", 5),
        ("last", 9),
        ("0%", 0),
        ("50%", 4),
        ("100%", 9),
    ],
)
def test_layers_are_given_by_number_name_or_depth(make_lm: Make, place: str, number: int) -> None:
    lm = make_lm("llama", num_hidden_layers=10)

    assert named(lm, f"{{layer:{place}}}") == f"model.layers.{number}.mlp.down_proj.weight"


def test_placeholders_are_replaced_at_any_depth_and_nothing_else_changes(
    lm: tt.LoadedModel,
) -> None:
    arguments = {
        "layer_name": ["{mlp:0}", "the {attention:1}."],
        "compact": True,
        "more": {"deep": ["{layer:2}", 3, None]},
        "braces": "{layer} {} {a: b c}"[:7],
    }

    assert resolve(arguments, lm.model) == {
        "layer_name": [
            "model.layers.0.mlp.down_proj.weight",
            "the model.layers.1.self_attn.o_proj.weight.",
        ],
        "compact": True,
        "more": {"deep": ["model.layers.2.mlp.down_proj.weight", 3, None]},
        "braces": "{layer}",
    }


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("{layer:3}", "the model has 3 layers, numbered from 0 to 2"),
        ("{layer:-1}", "has no layer: write a number, first, middle, last, or a depth"),
        ("{layer:101%}", "has no layer"),
        ("{layer:}", "has no layer"),
        ("{layer:²}", "has no layer"),
        ("{layr:0}", "is not a placeholder; there are layer, mlp, attention"),
    ],
)
def test_an_unknown_placeholder_or_layer_is_rejected(
    lm: tt.LoadedModel, place: str, said: str
) -> None:
    with pytest.raises(tt.PromptError) as refused:
        named(lm, place)

    assert place in str(refused.value)
    assert said in str(refused.value)


def test_the_layers_of_the_decoder_are_used_if_there_are_several_lists(make_lm: Make) -> None:
    lm = make_lm("llama")
    encoder = torch.nn.Module()
    encoder.blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(12))
    lm.model.encoder = encoder

    assert named(lm, "{layer:last}") == "model.layers.2.mlp.down_proj.weight"


def test_a_model_without_layers_says_so() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=0, n_embd=8, n_head=2, vocab_size=9))
    with pytest.raises(tt.PromptError, match="cannot find the layers of this gpt2 model"):
        resolve({"layer_name": "{layer:0}"}, model)
