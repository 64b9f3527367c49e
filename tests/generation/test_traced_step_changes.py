"""What changes a model, or looks at it, is not passed over by a traced step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tests.generation.traced_steps import PROMPT, by_modules, decoder_of, steps
from tokentape.generation import hf
from tokentape.generation.hf import traced_step

pytestmark = pytest.mark.usefixtures("early_traces")


def alter_weight(model: Any) -> None:
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)


def replace_weight(model: Any) -> None:
    projection = model.model.layers[1].self_attn.q_proj
    projection.weight = torch.nn.Parameter(projection.weight.detach() * 1.5)


def replace_data(model: Any) -> None:
    projection = model.model.layers[1].self_attn.o_proj
    projection.weight.data = projection.weight.detach() * 1.5


def add_hook(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: output * 1.5)


def add_early_hook(model: Any) -> None:
    model.model.norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 1.5,))


def replace_forward(model: Any) -> None:
    mlp = model.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda states: forward(states) * 1.5


@pytest.mark.parametrize(
    "change",
    [alter_weight, replace_weight, replace_data, add_hook, add_early_hook, replace_forward],
)
def test_a_change_between_two_tokens_acts_on_the_next(
    change: Callable[[Any], None],
    make_lm: Callable[..., tt.LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])

    def run() -> tuple[hf.Decoder, list[torch.Tensor]]:
        model = make_lm("llama").model
        decoder = decoder_of(model, ids=ids)
        between = lambda step: change(model) if step == 20 else None  # noqa: E731
        return decoder, steps(decoder, 30, between=between)

    _, expected = by_modules(monkeypatch, run)
    decoder, logits = run()

    assert decoder.steps.traced_steps > 10
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    assert not torch.equal(logits[21], steps(decoder_of(make_lm("llama").model, ids=ids), 21)[21])


def test_a_class_whose_forward_is_replaced_is_not_taken_from_a_trace(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = type(lm.model.model.layers[0].mlp)
    forward = kind.forward
    decoder = decoder_of(lm.model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    traced: list[int] = []

    def between(step: int) -> None:
        if step == 20:
            traced.append(decoder.steps.traced_steps)
            monkeypatch.setattr(kind, "forward", lambda self, states: forward(self, states) * 2)

    steps(decoder, 30, between=between)

    assert traced[0] > 10
    assert decoder.steps.traced_steps == traced[0]


def test_a_constant_that_changes_between_turns_is_found_by_the_proof(
    make_lm: Callable[..., tt.LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    model = make_lm("llama").model
    steps(decoder_of(model, ids=ids), 10)
    model.model.layers[2].self_attn.scaling = 0.5
    expected = by_modules(monkeypatch, lambda: steps(decoder_of(model, ids=ids), 30))
    decoder = decoder_of(model, ids=ids)
    logits = steps(decoder, 30)

    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    assert decoder.steps.traced_steps > 10, "it is traced again, with the new constant"


def test_a_hook_sees_each_forward_once_and_nothing_of_a_trace(lm: tt.LoadedModel) -> None:
    seen: list[torch.Tensor] = []
    hook = lm.model.model.norm.register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    decoder = decoder_of(lm.model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    counts: list[int] = []

    def between(step: int) -> None:
        if step == 20:
            counts.append(decoder.steps.traced_steps)
            hook.remove()

    steps(decoder, 40, between=between)

    assert len(seen) == 21, "the prefill and twenty steps"
    assert counts == [0]
    assert decoder.steps.traced_steps == 0, "inference mode is off in this turn"


def test_an_interrupted_trace_leaves_the_next_step_as_it_was(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    expected = by_modules(monkeypatch, lambda: steps(decoder_of(lm.model, ids=ids), 20))
    traced_step._models.clear()
    decoder = decoder_of(lm.model, ids=ids)
    logits, _ = decoder.prefill()
    taken, interrupted = [logits], 0

    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    while len(taken) < 21:
        ids = torch.cat((ids, taken[-1].argmax(-1)[:, None]), dim=-1)
        if interrupted == 0 and len(taken) > 3:
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(traced_step._TracedLayer, "update", interrupt)
                decoder.forward(ids)
            interrupted += 1
        taken.append(decoder.forward(ids))

    assert interrupted == 1
    assert not torch.jit.is_tracing()
    assert decoder.steps.traced_steps > 10
    assert all(torch.equal(a, b) for a, b in zip(taken, expected, strict=True))
