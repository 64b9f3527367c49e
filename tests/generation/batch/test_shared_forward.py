"""A forward of several sequences gives each the logits that it gets alone, up to rounding."""

from collections.abc import Callable

import pytest
import torch
from transformers import GenerationConfig

import tokentape as tt
from tests.generation.batch.row_sequences import DTYPES, LENGTHS, prompts, sequence
from tokentape.generation import hf
from tokentape.generation.numerics.threads import torch_threads

SHARING = ("llama", "qwen3", "gpt2", "gemma3", "mistral")


@pytest.fixture(params=SHARING)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_each_row_is_near_the_logits_alone(
    family: str, kernel: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    model = make_lm(family).model
    model.set_attn_implementation(kernel)
    together = [sequence(model, each) for each in prompts(0)]
    forwards = hf.SharedForwards(model)

    for step in range(20):
        rows = forwards.forward(together, rows=6, places=(5, 0, 3, 2))
        for number, row in enumerate(rows):
            ids = together[number].ids
            alone = sequence(model, ids[0].tolist())
            assert (row - alone.decoder.forward(ids)).abs().max() < 1e-3
            longer = torch.cat((ids, torch.tensor([[3 + 11 * step]])), dim=-1)
            together[number] = hf.SequenceStep(together[number].decoder, longer)

    assert [each.decoder.held for each in together] == [each + 19 for each in LENGTHS]


@pytest.mark.parametrize(("threads", "counts"), [(1, (2, 3, 7)), (2, (7,))])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_a_row_do_not_depend_on_the_other_rows(
    family: str,
    dtype: str,
    threads: int,
    counts: tuple[int, ...],
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    model = make_lm(family).model.to(DTYPES[dtype])
    forwards = hf.SharedForwards(model)
    own = prompts(0)[3]
    with torch_threads(threads):
        for rows in counts:
            others = prompts(1)[: rows - 1]
            for place in {0, rows - 3, rows - 1} & set(range(rows)):
                free = [each for each in range(rows) if each != place][: len(others)]
                together = [sequence(model, each) for each in (own, *others)]
                among_others = forwards.forward(together, rows=rows, places=[place, *free])
                alone = forwards.forward([sequence(model, own)], rows=rows, places=[place])
                assert torch.equal(alone[0], among_others[0])


def test_the_model_keeps_its_configs_and_its_kernel(lm: tt.LoadedModel) -> None:
    before = {name: id(each.config) for name, each in _configured(lm)}
    hf.SharedForwards(lm.model).forward([sequence(lm.model, [5, 6, 7])], rows=2, places=[1])

    assert {name: id(each.config) for name, each in _configured(lm)} == before
    assert {each.config._attn_implementation for _, each in _configured(lm)} == {"sdpa"}


def _configured(lm: tt.LoadedModel) -> list[tuple[str, torch.nn.Module]]:
    return [(name, each) for name, each in lm.model.named_modules() if hasattr(each, "config")]


def test_the_configs_are_put_back_after_an_error(lm: tt.LoadedModel) -> None:
    config = lm.model.model.config
    step = hf.SequenceStep(sequence(lm.model, [5, 6, 7]).decoder, torch.tensor([[5, 6, 100_000]]))
    with pytest.raises(IndexError):
        hf.SharedForwards(lm.model).forward([step], rows=2, places=[0])
    assert lm.model.model.config is config


def test_a_model_whose_attention_is_its_own_is_found(lm: tt.LoadedModel) -> None:
    attention = lm.model.model.layers[1].self_attn
    own = attention.forward

    def forward(*args: object, **kwargs: object) -> object:
        """Attend as before, with a config that no interface looks at."""
        attention.config = lm.model.config
        return own(*args, **kwargs)

    attention.forward = forward
    with pytest.raises(tt.ModelError, match="does not come through transformers' interface"):
        hf.SharedForwards(lm.model).forward([sequence(lm.model, [5, 6, 7])], rows=1, places=[0])


@pytest.mark.parametrize(
    ("family", "obstacle"),
    [("mamba", "layers:"), ("qwen3-next", "experts:num_experts"), ("llama", "None")],
)
def test_models_that_cannot_share_forwards_say_why(
    family: str, obstacle: str, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    assert str(hf.sharing_obstacle(make_lm(family).model)).startswith(obstacle)


def test_hooks_of_the_user_are_an_obstacle(lm: tt.LoadedModel) -> None:
    handle = lm.model.model.layers[0].register_forward_hook(lambda *args: None)
    assert hf.sharing_obstacle(lm.model) == "hook:foreign"
    handle.remove()
    assert hf.sharing_obstacle(lm.model) is None


def test_caches_of_a_fixed_size_are_an_obstacle(lm: tt.LoadedModel) -> None:
    config = GenerationConfig(cache_implementation="static")  # type: ignore[no-untyped-call]
    static = hf.new_cache(lm.model, config, total_tokens=20)
    assert hf.cache_obstacle(static) == "cache:StaticCache"
    assert hf.cache_obstacle(hf.new_cache(lm.model)) is None
