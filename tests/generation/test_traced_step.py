"""Steps that are taken from a trace have the bits of those that the modules compute."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation import hf
from tokentape.generation.hf import traced_step
from tokentape.generation.hf.traced_step import trace_obstacle
from tokentape.store import DatabaseStore

PROMPT = 30
TRACED = ("llama", "mistral_full", "qwen3")


@pytest.fixture(autouse=True)
def _trace_early(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(traced_step, "UNTRACED_STEPS", 3)
    monkeypatch.setattr(traced_step, "UNTRACED_TURN_STEPS", 2)
    yield
    traced_step._models.clear()


def make(make_lm: Callable[..., tt.LoadedModel], family: str, **settings: Any) -> Any:
    if family == "mistral_full":
        return make_lm("mistral", sliding_window=None, **settings).model
    return make_lm(family, **settings).model


def decoder_of(model: Any, cache: Any = None, *, ids: torch.Tensor) -> hf.Decoder:
    return hf.Decoder(model, hf.prefill_config(model), ids, cache or hf.new_cache(model))


def steps(
    decoder: hf.Decoder,
    count: int,
    *,
    between: Callable[[int], None] = lambda step: None,
) -> list[torch.Tensor]:
    """Return the logits after the prompt and after each of the likeliest tokens."""
    logits, _ = decoder.prefill()
    taken, ids = [logits], decoder.prompt
    for step in range(count):
        between(step)
        ids = torch.cat((ids, taken[-1].argmax(-1)[:, None]), dim=-1)
        taken.append(decoder.forward(ids))
    return taken


def by_modules(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(traced_step, "FAMILIES", frozenset())
        return act()


def same_caches(one: hf.Decoder, other: hf.Decoder) -> bool:
    pairs: Any = zip(one.cache.layers, other.cache.layers, strict=True)
    return all(torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", TRACED)
def test_logits_and_cache_have_the_bits_of_the_modules(
    family: str,
    dtype: torch.dtype,
    make_lm: Callable[..., tt.LoadedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make(make_lm, family, dtype=dtype)
    ids = torch.tensor([random_ids(PROMPT, 1)])
    # More tokens than the spare capacity of a buffer.
    count = 150
    plain = decoder_of(model, ids=ids)
    expected = by_modules(monkeypatch, lambda: steps(plain, count))
    traced = decoder_of(model, ids=ids)
    logits = steps(traced, count)

    assert traced.steps.traced_steps > count - 10
    assert plain.steps.traced_steps == 0
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    assert same_caches(plain, traced)


def test_logits_are_those_of_generate(lm: tt.LoadedModel) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    decoder = decoder_of(lm.model, ids=ids)
    logits = steps(decoder, 29)
    output = lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=30,
        max_new_tokens=30,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )

    assert decoder.steps.traced_steps > 20
    assert all(torch.equal(a, b) for a, b in zip(logits, output.logits, strict=True))


@pytest.mark.parametrize("recorded_by_modules", [True, False])
def test_a_recording_retraces_exactly_the_other_way(
    recorded_by_modules: bool,
    make_lm: Callable[..., tt.LoadedModel],
    record: Callable[..., tt.Recording],
    store: DatabaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = make_lm("llama")
    traced: list[int] = []
    forward = traced_step._Trace.forward

    def counting(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        traced.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(traced_step._Trace, "forward", counting)

    def act(by: bool, run: Callable[[], Any]) -> tuple[Any, int]:
        traced.clear()
        return (by_modules(monkeypatch, run) if by else run()), len(traced)

    recording, recorded_traces = act(recorded_by_modules, lambda: record(lm, store, tokens=20))
    traced_step._models.clear()
    report, replayed_traces = act(not recorded_by_modules, lambda: tt.retrace(recording, lm))

    assert report.verdict == "exact"
    assert (recorded_traces > 0, replayed_traces > 0) == (
        not recorded_by_modules,
        recorded_by_modules,
    )


def test_the_next_turn_proves_the_trace_again(lm: tt.LoadedModel) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    steps(decoder_of(lm.model, ids=ids), 10)
    again = decoder_of(lm.model, ids=ids)
    steps(again, 10)

    assert again.steps.traced_steps == 10 - traced_step.UNTRACED_TURN_STEPS - 1


def test_a_fork_keeps_its_states_when_the_other_is_decoded_by_a_trace(
    lm: tt.LoadedModel,
) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    decoder = decoder_of(lm.model, ids=ids)
    taken: list[tuple[Any, list[torch.Tensor]]] = []

    def fork(step: int) -> None:
        if step == 15:
            copied = hf.fork(decoder.cache)
            taken.append((copied, [each.keys.clone() for each in copied.layers]))
            taken.append((hf.fork(copied), taken[0][1]))

    steps(decoder, 30, between=fork)

    assert decoder.steps.traced_steps > 20
    for copied, keys in taken:
        assert all(torch.equal(a.keys, b) for a, b in zip(copied.layers, keys, strict=True))


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


def test_a_trace_with_other_bits_is_given_up(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.tensor([random_ids(PROMPT, 1)])
    plain = decoder_of(lm.model, ids=ids)
    expected = by_modules(monkeypatch, lambda: steps(plain, 30))
    right = traced_step._TracedLayer.update

    def wrong(self: Any, keys: torch.Tensor, values: torch.Tensor, *rest: Any) -> Any:
        return right(self, keys * 1.0001, values, *rest)

    monkeypatch.setattr(traced_step._TracedLayer, "update", wrong)
    decoder = decoder_of(lm.model, ids=ids)
    logits = steps(decoder, 30)

    assert decoder.steps.traced_steps == 0
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    assert same_caches(plain, decoder), "what the wrong trace wrote is overwritten"
    assert traced_step._models[lm.model].obstacle == "its trace gives other bits than its modules"


def test_a_model_that_cannot_be_traced_is_decoded_by_its_modules(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(torch.jit, "trace", fail)
    decoder = decoder_of(lm.model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    steps(decoder, 20)

    assert decoder.steps.traced_steps == 0
    assert traced_step._models[lm.model].obstacle == "RuntimeError while it was traced"


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


@pytest.mark.parametrize(
    ("family", "obstacle"),
    [
        ("llama", None),
        ("qwen3", None),
        ("gpt2", "family"),
        ("gemma3", "family"),
        ("mamba", "family"),
        ("mistral", "cache"),
    ],
)
def test_obstacles_have_names(
    family: str, obstacle: str | None, make_lm: Callable[..., tt.LoadedModel]
) -> None:
    model = make_lm(family).model

    assert trace_obstacle(model, hf.new_cache(model)) == obstacle


def test_eager_attention_is_not_traced(lm: tt.LoadedModel) -> None:
    lm.model.set_attn_implementation("eager")

    assert trace_obstacle(lm.model, hf.new_cache(lm.model)) == "attention kernel"


def test_a_model_that_is_computed_in_a_wider_dtype_is_not_traced(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    model = make_lm("llama", dtype=torch.bfloat16).model
    hf.layer_cast.compute_in(model, "float32")

    assert trace_obstacle(model, hf.new_cache(model)) == "computed in another dtype"


def test_tracing_changes_nothing_of_the_model(lm: tt.LoadedModel) -> None:
    weights = {name: (id(each), each._version) for name, each in lm.model.named_parameters()}
    modules = [id(each) for each in lm.model.modules()]
    names = [sorted(vars(each)) for each in lm.model.modules()]
    decoder = decoder_of(lm.model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    steps(decoder, 20)

    assert decoder.steps.traced_steps > 10
    after = {name: (id(each), each._version) for name, each in lm.model.named_parameters()}
    assert after == weights
    assert [id(each) for each in lm.model.modules()] == modules
    assert [sorted(vars(each)) for each in lm.model.modules()] == names
    assert all(each.requires_grad for each in lm.model.parameters())


def test_a_trace_keeps_neither_the_model_nor_its_weights(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    model = make_lm("llama").model
    decoder = decoder_of(model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    steps(decoder, 20)
    assert decoder.steps.traced_steps > 10
    gone = [weakref.ref(model), *(weakref.ref(each) for each in model.parameters())]
    del model, decoder
    gc.collect()

    assert [each() for each in gone] == [None] * len(gone)


def test_no_traced_tensor_is_one_of_inference_mode(lm: tt.LoadedModel) -> None:
    decoder = decoder_of(lm.model, ids=torch.tensor([random_ids(PROMPT, 1)]))
    logits = steps(decoder, 20)
    states = [each for layer in decoder.cache.layers for each in hf.tensors_of(vars(layer))]

    assert decoder.steps.traced_steps > 10
    assert not any(each.is_inference() for each in (*logits, *states))
