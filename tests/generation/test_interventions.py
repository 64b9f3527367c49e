"""Interventions act at exactly their positions and leave all others unchanged."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tests.generation.made_interventions import MakeLM, active
from tests.interventions import KINDS, WIDTH, intervention, ranges_of, vector
from tests.samplers import GREEDY
from tokentape.generation.hooks.forward_positions import ForwardPositions, track_positions
from tokentape.generation.interventions import apply_interventions
from tokentape.recorder.events import (
    InterventionApplied,
)
from tokentape.recorder.projections import ActiveRange
from tokentape.store import DatabaseStore

Investigating = Callable[..., tt.Investigation]


def tensors_of(*asked: tt.Intervention) -> dict[str, torch.Tensor]:
    return {each.tensor_sha256: each.tensor for each in asked if each.tensor is not None}


def seen_of(
    lm: tt.LoadedModel, ids: list[int], layer: str, *given: ActiveRange, **known: Any
) -> Any:
    """Return a layer's output in one forward, shape (positions, width)."""
    seen: list[torch.Tensor] = []
    module = lm.model.get_submodule(layer)
    forward = ForwardPositions()
    with (
        track_positions(lm.model, forward),
        apply_interventions(lm.model, given, forward, **known),
        torch.no_grad(),
    ):
        handle = module.register_forward_hook(
            lambda *called: seen.append(called[2] if torch.is_tensor(called[2]) else called[2][0])
        )
        lm.model(torch.tensor([ids]))
        handle.remove()
    return seen[0][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dimensions", [(), (3, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_positions_in_range_change_and_all_others_keep_every_bit(
    make_lm: MakeLM, kind: str, dimensions: tuple[int, ...], dtype: torch.dtype
) -> None:
    lm = make_lm("llama")
    lm.model.to(dtype)
    ids, layer = random_ids(12, 0), "model.layers.0"
    numbers = vector(3, rows=20)[:, : len(dimensions) or WIDTH]
    asked = {
        "steer": tt.Intervention.steer("it", 0, numbers[0], coefficient=0.5, dimensions=dimensions),
        "ablate_zero": tt.Intervention.ablate("it", 0, dimensions=dimensions),
        "ablate_mean": tt.Intervention.ablate("it", 0, mean=numbers[0], dimensions=dimensions),
        "scale": tt.Intervention.scale("it", 0, 3.0, dimensions=dimensions),
        "patch": tt.Intervention.patch("it", 0, numbers, start=2, dimensions=dimensions),
        "placebo": tt.Intervention.placebo("it", 0, dimensions=dimensions),
    }[kind]
    plain = seen_of(lm, ids, layer, tensors={})
    changed = seen_of(lm, ids, layer, active(asked, 4, 7), tensors=tensors_of(asked))
    columns = list(dimensions) or list(range(WIDTH))
    others = [column for column in range(WIDTH) if column not in columns]
    was = plain[4:7, columns].float()
    expected = {
        "steer": was + 0.5 * numbers[0],
        "ablate_zero": torch.zeros_like(was),
        "ablate_mean": numbers[0].expand_as(was),
        "scale": was * 3.0,
        "patch": numbers[2:5],
        "placebo": was,
    }[kind]

    assert torch.equal(changed[4:7, columns], expected.to(dtype))
    assert torch.equal(changed[4:7, others], plain[4:7, others])
    assert torch.equal(changed[:4], plain[:4])
    assert torch.equal(changed[7:], plain[7:])


def test_other_outputs_of_a_layer_are_passed_on(lm: tt.LoadedModel) -> None:
    """Attention returns its weights together with the activations."""
    asked = intervention("ablate_zero")
    given = active(asked, 1, None, layers=("model.layers.0.self_attn",))
    seen = seen_of(lm, random_ids(5, 0), "model.layers.0.self_attn", given, tensors={})

    assert not seen[1:].any()
    assert seen[0].any()


def test_a_patched_residual_stream_gives_the_logits_of_the_other_prompt(lm: tt.LoadedModel) -> None:
    """The head reads the other run's output at the last position, so the logits are equal."""
    ids, other = random_ids(20, 1), random_ids(20, 2)
    rows = tt.capture(lm.model, other, -1)
    last = lm.model.config.num_hidden_layers - 1
    patch = tt.Intervention.patch("other", last, rows, start=0)
    said = []
    for prompt, given in ((ids, patch), (other, None)):
        generator = tt.ManualGenerator(lm.model, lm.tokenizer)
        if given is not None:
            generator.intervene(given)
        generator.generate(
            prompt, max_new_tokens=1, **GREEDY, callback=lambda _, logits: said.append(logits)
        )

    assert torch.allclose(said[0], said[1], atol=1e-4)


def test_captured_vectors_are_those_of_the_model_without_hooks(lm: tt.LoadedModel) -> None:
    """Also during an intervention, and for prompts of different lengths."""
    ids, other = random_ids(9, 1), random_ids(4, 2)
    rows, other_rows = tt.capture(lm.model, ids, 1), tt.capture(lm.model, other, 1)
    asked = active(intervention("steer"), 0, None)
    with apply_interventions(
        lm.model, [asked], ForwardPositions(end=9), tensors_of(intervention("steer"))
    ):
        again = tt.capture(lm.model, ids, 1, (2, 5))
    mean = tt.mean_activation(lm.model, [ids, other], 1)
    towards = tt.contrast(lm.model, [ids], [other, ids], 1)

    assert torch.allclose(again, rows[2:5], atol=1e-5)
    assert torch.allclose(mean, torch.cat((rows, other_rows)).mean(dim=0), atol=1e-5)
    expected = rows[-1] - (rows[-1] + other_rows[-1]) / 2
    assert torch.allclose(towards, expected, atol=1e-5)
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_texts_are_encoded_by_the_tokenizer_of_the_model(lm: tt.LoadedModel) -> None:
    texts = ["yes", "perhaps"]
    ids = [lm.tokenizer(each).input_ids for each in texts]

    assert torch.equal(tt.capture(lm, texts[1], 1, (1, 3)), tt.capture(lm.model, ids[1], 1, (1, 3)))
    mean = tt.mean_activation(lm.model, ids, 1)
    assert torch.equal(tt.mean_activation(lm, texts, 1), mean)
    vector = tt.contrast(lm.model, ids, ids[:1], 1)
    assert torch.equal(tt.contrast(lm, texts, ["yes"], layer=1), vector)
    assert torch.equal(tt.contrast(lm, [ids[0], "perhaps"], "yes", 1), vector)


def test_a_text_without_a_tokenizer_or_without_a_token_is_refused(lm: tt.LoadedModel) -> None:
    with pytest.raises(tt.ModelError, match="give the LoadedModel"):
        tt.contrast(lm.model, ["yes"], ["no"], 1)
    with pytest.raises(tt.ModelError, match="no token of the text ''"):
        tt.contrast(lm, ["yes"], [""], 1)
    with pytest.raises(tt.ModelError, match="at least one prompt on each side"):
        tt.contrast(lm, [], ["no"], 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: intervention("steer", layer="model.layer.1"), r"nearest are model\.layers\.1"),
        (lambda: intervention("steer", layer=9), "there is no layer 9"),
        (
            lambda: tt.Intervention.steer("it", 0, torch.ones(5)),
            "width 5, but changes 64 dimensions of",
        ),
        (
            lambda: tt.Intervention.steer("it", 0, torch.ones(64), dimensions=[1]),
            "width 64, but changes 1 of 64 dimensions",
        ),
        (lambda: intervention("scale", dimensions=[64]), "changes dimension 64, but"),
        (
            lambda: intervention("scale", layer="model"),
            "type BaseModelOutputWithPast cannot be changed",
        ),
        (lambda: intervention("scale", layer="lm_head"), "lm_head computes logits"),
        (lambda: intervention("scale", layer="model.layers"), "is not used in a forward"),
        (lambda: intervention("scale", name="taken"), "'taken' already"),
        (lambda: "steer", "not a str"),
    ],
)
def test_an_intervention_that_does_not_fit_the_model_is_rejected_before_anything_changes(
    run: tt.Investigation, store: DatabaseStore, make: Callable[[], Any], said: str
) -> None:
    run.intervene(intervention("placebo", name="taken"))
    with pytest.raises(tt.TokentapeError, match=said) as raised:
        run.intervene(make())
    assert "\n" not in str(raised.value)
    run.chat("One?", max_new_tokens=2, **GREEDY)
    names = [name for name, _, _ in ranges_of(store.recording(run.run_id).turns()[0])]

    assert names == ["taken"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: intervention("steer", name=" "), "needs a name"),
        (lambda: intervention("steer", positions="some"), "positions are 'all'"),
        (lambda: intervention("steer", positions=(5, 5)), "at least 6"),
        (lambda: intervention("steer", positions=(1, 2, 3)), "a pair"),
        (lambda: intervention("steer", turns=(2, 1)), "the last of the turns"),
        (lambda: intervention("steer", from_step=-1), "from_step"),
        (lambda: intervention("steer", when=True), "must be callable"),
        (lambda: intervention("steer", positions="last", from_step=1), "acts on prompts"),
        (lambda: intervention("steer", dimensions=[1, 1]), "twice"),
        (lambda: intervention("steer", when_=1), "unknown keyword of an intervention: 'when_'"),
        (lambda: tt.Intervention.steer("it", 0, torch.ones(4) / 0), "not finite"),
        (lambda: tt.Intervention.steer("it", 0, torch.ones(4, 4)), r"shape \(width,\)"),
        (lambda: tt.Intervention.steer("it", 0, [1.0]), "a floating-point tensor"),  # type: ignore[arg-type]
        (lambda: tt.Intervention.steer("it", 0, torch.ones(4), coefficient=1e39), "must be finite"),
        (lambda: tt.Intervention.scale("it", 0, float("nan")), "must be finite"),
        (lambda: tt.Intervention.scale("it", [], 1.0), "has no layer"),
        (lambda: tt.Intervention.patch("it", 0, torch.ones(4, 4), start=-1), "start of a patch"),
    ],
)
def test_an_invalid_intervention_is_rejected_for_any_model(
    make: Callable[[], object], said: str
) -> None:
    with pytest.raises(tt.ModelError, match=said):
        make()


def test_withdrawing_an_unknown_name_lists_the_requested_ones(run: tt.Investigation) -> None:
    run.intervene(intervention("placebo", name="there"))

    with pytest.raises(tt.ModelError, match="no intervention 'gone'; there is 'there'"):
        run.withdraw("gone")


def test_an_intervention_cannot_be_requested_during_a_step(run: tt.Investigation) -> None:
    def step_in(token_id: int, logits: torch.Tensor) -> None:
        run.intervene(intervention("steer"))

    with pytest.raises(tt.TokentapeError, match="a turn is running"):
        run.chat("One?", max_new_tokens=2, callback=step_in)


def test_an_intervention_acts_without_a_recorder(lm: tt.LoadedModel) -> None:
    ids = random_ids(9, 1)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    plain = generator.generate(ids, max_new_tokens=8, **GREEDY)
    generator.intervene(intervention("steer"))
    steered = generator.generate(ids, max_new_tokens=8, **GREEDY)

    assert plain["generated_tokens"] != steered["generated_tokens"]
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_a_vector_is_stored_once_by_its_sha256(run: tt.Investigation, store: DatabaseStore) -> None:
    asked = intervention("steer", positions="prompt")
    run.intervene(asked)
    for _ in range(3):
        run.chat("One?", max_new_tokens=2, **GREEDY)
    events = [each.event for each in store.recording(run.run_id).events()]
    begun = [each for each in events if isinstance(each, InterventionApplied)]

    assert [each.tensor_sha256 for each in begun] == [asked.tensor_sha256] * 3
    assert store.blob(asked.tensor_sha256)
    assert json.dumps(begun[0].schedule) == "{}"


def test_a_new_intervention_replaces_a_withdrawn_one_with_its_name(
    run: tt.Investigation, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Between two turns only the new application is recorded."""
    run.intervene(intervention("steer", seed=1))
    run.chat("One?", max_new_tokens=3, **GREEDY)
    run.withdraw("it")
    run.intervene(intervention("steer", seed=2))
    run.chat("Two?", max_new_tokens=3, **GREEDY)
    recording = store.recording(run.run_id)
    first, second = recording.turns()[1].interventions

    assert first.applied.tensor_sha256 != second.applied.tensor_sha256
    assert first.end == second.start
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


def test_a_turn_that_fails_leaves_no_active_range(
    run: tt.Investigation, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """The failed reply is not in the stream, and the next turn decides again."""

    def stop(token_id: int, logits: torch.Tensor) -> None:
        if len(seen) == 3:
            raise RuntimeError("stop")
        seen.append(token_id)

    seen: list[int] = []
    run.intervene(intervention("steer", positions="generated"))
    with pytest.raises(RuntimeError, match="stop"):
        run.chat("One?", max_new_tokens=9, callback=stop, **GREEDY)
    assert not any(module._forward_hooks for module in lm.model.modules())
    run.chat("Two?", max_new_tokens=3, **GREEDY)
    recording = store.recording(run.run_id)
    second = recording.turns()[1]

    assert ranges_of(second) == [("it", len(second.prompt_ids), len(second.prompt_ids) + 3)]
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED
