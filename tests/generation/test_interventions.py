"""What is done inside a model: exactly there and then, on top of what was lived before."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

import tokentape as tt
from benchmarks.tiny_models import byte_tokenizer, random_ids, tiny_model
from tests.interventions import GREEDY, KINDS, WIDTH, intervention, ranges_of, vector
from tokentape.generation.cache.id_salt import salt_ids, strip_salt
from tokentape.generation.hooks.forward_positions import ForwardPositions, track_positions
from tokentape.generation.interventions import intervening
from tokentape.recorder import Recorder
from tokentape.recorder.events import (
    CacheCleared,
    InterventionApplied,
    InterventionRemoved,
    InterventionRequested,
    RunStarted,
    TurnStarted,
)
from tokentape.recorder.projections import ActiveInterventions, ActiveRange, RequestedInterventions
from tokentape.store import DatabaseStore

MakeLM = Callable[..., tt.LoadedModel]
Investigating = Callable[..., tt.Investigation]


def applied(asked: tt.Intervention, position: int = 0, **fields: Any) -> InterventionApplied:
    layers = fields.pop("layers", ("model.layers.0",))
    request = asked.event(layers=layers, clear_cache=False, turn=None)
    described = {each.name: getattr(request, each.name) for each in dataclasses.fields(request)}
    del described["clear_cache"], described["turn"]
    return InterventionApplied(turn=1, position=position, **described)


def active(asked: tt.Intervention, start: int, end: int | None, **fields: Any) -> ActiveRange:
    event = applied(asked, start, **fields)
    return ActiveRange(applied=event, start=start, end=end, tensor_start=event.tensor_start)


def tensors_of(*asked: tt.Intervention) -> dict[str, torch.Tensor]:
    return {each.tensor_sha256: each.tensor for each in asked if each.tensor is not None}


def seen_of(
    lm: tt.LoadedModel, ids: list[int], layer: str, *given: ActiveRange, **known: Any
) -> Any:
    """What a layer gives in one forward, shape (positions, width)."""
    seen: list[torch.Tensor] = []
    module = lm.model.get_submodule(layer)
    forward = ForwardPositions()
    with (
        track_positions(lm.model, forward),
        intervening(lm.model, given, forward, **known),
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
def test_the_positions_in_range_change_as_said_and_others_keep_every_bit(
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


def test_what_else_a_layer_gives_is_handed_on(lm: tt.LoadedModel) -> None:
    """Attention gives its weights beside the activations."""
    asked = intervention("ablate_zero")
    given = active(asked, 1, None, layers=("model.layers.0.self_attn",))
    seen = seen_of(lm, random_ids(5, 0), "model.layers.0.self_attn", given, tensors={})

    assert not seen[1:].any()
    assert seen[0].any()


def test_a_patched_residual_stream_says_what_the_other_prompt_says(lm: tt.LoadedModel) -> None:
    """All that the head sees at the last position is the other run's: so are its logits."""
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


def test_vectors_are_those_of_the_plain_model(lm: tt.LoadedModel) -> None:
    """Also while somebody steers it, and whatever the lengths of the prompts."""
    ids, other = random_ids(9, 1), random_ids(4, 2)
    rows, other_rows = tt.capture(lm.model, ids, 1), tt.capture(lm.model, other, 1)
    asked = active(intervention("steer"), 0, None)
    with intervening(lm.model, [asked], ForwardPositions(end=9), tensors_of(intervention("steer"))):
        again = tt.capture(lm.model, ids, 1, (2, 5))
    mean = tt.mean_activation(lm.model, [ids, other], 1)
    towards = tt.contrast(lm.model, [ids], [other, ids], 1)

    assert torch.allclose(again, rows[2:5], atol=1e-5)
    assert torch.allclose(mean, torch.cat((rows, other_rows)).mean(dim=0), atol=1e-5)
    expected = rows[-1] - (rows[-1] + other_rows[-1]) / 2
    assert torch.allclose(towards, expected, atol=1e-5)
    assert not any(module._forward_hooks for module in lm.model.modules())


def say(lm: tt.LoadedModel, store: DatabaseStore, *given: tt.Intervention) -> tt.Recording:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=2) as run:
        run.chat("One?", max_new_tokens=6, **GREEDY)
        for each in given:
            run.intervene(each)
        run.chat("Two?", max_new_tokens=6, **GREEDY)
        run.chat("Three?", max_new_tokens=6, do_sample=True)
    return store.recording(run.run_id)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mamba"])
def test_a_placebo_gives_every_bit_of_what_nothing_gives(
    make_lm: MakeLM, store: DatabaseStore, family: str
) -> None:
    lm = make_lm(family)
    layer = "blocks.1.mlp" if family != "mamba" else 1
    plain = say(lm, store)
    placebo = say(lm, store, tt.Intervention.placebo("none", layer, when=lambda state: state.step))
    kinds = [type(each.event).__name__ for each in placebo.events()]

    assert {"InterventionApplied", "InterventionRemoved"} <= set(kinds)
    for ours, theirs in zip(placebo.turns(), plain.turns(), strict=True):
        assert [(t.token_id, t.logprob, t.entropy) for t in ours.tokens] == [
            (t.token_id, t.logprob, t.entropy) for t in theirs.tokens
        ]
        assert ours.cache == theirs.cache


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mamba"])
def test_reuse_says_what_a_cold_run_says_under_the_same_marks(
    make_lm: MakeLM, family: str, use_cache: bool
) -> None:
    """Steered in the second turn, free in the third: the history is what it was."""
    lm = make_lm(family)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt("Be kind.")
    said, logits = [], []
    for turn in range(3):
        if turn == 1:
            generator.intervene(intervention("steer"))
        if turn == 2:
            generator.withdraw("it")
        prompt = generator.conversation.extend([message(f"And {turn}?")])
        result = generator.take_turn(
            prompt,
            chosen(lm, use_cache, callback=lambda token, row: logits.append(row)),
        )
        said.append(result.token_ids)
    expected = COLD.setdefault(family, (said, logits))

    assert said == expected[0]
    assert torch.allclose(torch.stack(logits), torch.stack(expected[1]), atol=1e-2)


COLD: dict[str, Any] = {}


def message(text: str) -> Any:
    from tokentape.generation.history.messages import NewMessage

    return NewMessage(role="user", content=text)


def chosen(lm: tt.LoadedModel, use_cache: bool, **given: Any) -> Any:
    from tokentape.generation.engine.turn import turn_settings

    return turn_settings(lm.model, max_new_tokens=4, do_sample=False, use_cache=use_cache, **given)


def test_the_cache_knows_under_what_it_was_computed(lm: tt.LoadedModel) -> None:
    """The same ids, steered or not, are two prefixes; what comes back is found again."""
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    ids = random_ids(20, 1)

    def decided() -> Any:
        return generator.generate(ids, max_new_tokens=2, **GREEDY)["cache"]

    decided()
    generator.intervene(intervention("steer", positions=(8, 99)))
    steered = decided()
    again = decided()
    generator.withdraw("it")
    back = decided()

    assert (steered.reason, steered.key_field) == ("interventions_differ", "interventions")
    assert (steered.decision, steered.reused_tokens, steered.divergence_index) == ("partial", 8, 8)
    assert steered.divergence_cached_id == steered.divergence_prompt_id == ids[8]
    assert (again.reused_tokens, back.reused_tokens) == (19, 19)


def test_a_cache_that_is_handed_over_knows_it_as_well(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    other = tt.ManualGenerator(lm.model, lm.tokenizer)
    ids = random_ids(20, 1)
    generator.intervene(intervention("steer", positions=(8, 99)))
    given = generator.generate(ids, max_new_tokens=2, **GREEDY, return_cache=True)
    cache = given["past_key_values"]
    assert cache is not None
    plain = other.generate(ids, max_new_tokens=2, **GREEDY, past_key_values=cache)["cache"]
    other.intervene(intervention("steer", positions=(8, 99)))
    steered = other.generate(ids, max_new_tokens=2, **GREEDY, past_key_values=cache)["cache"]

    assert cache.ids == (*ids, given["generated_tokens"][0])
    assert (plain.reason, plain.reused_tokens) == ("interventions_differ", 8)
    assert (steered.reason, steered.reused_tokens) == ("covers_prompt", 19)


def test_what_acts_is_never_on_disk(lm: tt.LoadedModel, tmp_path: Path) -> None:
    """What is stored is the part before it, and that part is found by a steered prompt, too."""
    ids = random_ids(30, 1)
    first = tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=tmp_path)
    first.intervene(intervention("steer", positions=(10, 99)))
    first.generate(ids, max_new_tokens=2, **GREEDY)
    assert first.store_prefix()
    other = tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=tmp_path)
    plain = other.generate(ids, max_new_tokens=2, **GREEDY)["cache"]
    third = tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=tmp_path)
    third.intervene(intervention("steer", positions=(5, 99)))
    steered = third.generate(ids, max_new_tokens=2, **GREEDY)["cache"]

    assert (plain.source, plain.reused_tokens) == ("disk", 10)
    assert (steered.source, steered.reused_tokens) == ("disk", 5)


def test_marks_come_off_again() -> None:
    asked = active(intervention("steer"), 2, 4)
    ids = (5, 6, 7, 8, 9)
    with_marks = salt_ids(ids, [asked])

    assert [a == b for a, b in zip(with_marks, ids, strict=True)] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert strip_salt(with_marks) == ids
    assert salt_ids(ids, []) == ids
    assert salt_ids((), [asked]) == ()


@pytest.fixture
def run(lm: tt.LoadedModel, store: DatabaseStore) -> Iterator[tt.Investigation]:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.") as begun:
        yield begun


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: intervention("steer", layer="model.layer.1"), r"nearest are model\.layers\.1"),
        (lambda: intervention("steer", layer=9), "there is no layer 9"),
        (lambda: tt.Intervention.steer("it", 0, torch.ones(5)), "5 numbers, and 64 numbers are"),
        (
            lambda: tt.Intervention.steer("it", 0, torch.ones(64), dimensions=[1]),
            "64 numbers, and 1 of 64 dimensions are changed",
        ),
        (lambda: intervention("scale", dimensions=[64]), "changes the one with number 64"),
        (
            lambda: intervention("scale", layer="model"),
            "a BaseModelOutputWithPast cannot be changed",
        ),
        (lambda: intervention("scale", layer="lm_head"), "lm_head makes logits"),
        (lambda: intervention("scale", layer="model.layers"), "takes no part in a forward"),
        (lambda: intervention("scale", name="taken"), "'taken' already"),
        (lambda: "steer", "not a str"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_anything_changes(
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
        (lambda: intervention("steer", when=True), "called"),
        (lambda: intervention("steer", positions="last", from_step=1), "acts on prompts"),
        (lambda: intervention("steer", dimensions=[1, 1]), "twice"),
        (lambda: intervention("steer", when_=1), "no setting 'when_'"),
        (lambda: tt.Intervention.steer("it", 0, torch.ones(4) / 0), "not finite"),
        (lambda: tt.Intervention.steer("it", 0, torch.ones(4, 4)), r"shape \(width,\)"),
        (lambda: tt.Intervention.steer("it", 0, [1.0]), "a tensor"),  # type: ignore[arg-type]
        (lambda: tt.Intervention.steer("it", 0, torch.ones(4), coefficient=1e39), "finite number"),
        (lambda: tt.Intervention.scale("it", 0, float("nan")), "finite number"),
        (lambda: tt.Intervention.scale("it", [], 1.0), "in no layer"),
        (lambda: tt.Intervention.patch("it", 0, torch.ones(4, 4), start=-1), "start of a patch"),
    ],
)
def test_what_makes_no_sense_is_refused_whatever_the_model(
    make: Callable[[], object], said: str
) -> None:
    with pytest.raises(tt.ModelError, match=said):
        make()


def test_withdrawing_what_is_not_there_names_what_is(run: tt.Investigation) -> None:
    run.intervene(intervention("placebo", name="there"))

    with pytest.raises(tt.ModelError, match="no intervention 'gone'; there is 'there'"):
        run.withdraw("gone")


def test_nobody_steps_in_while_a_token_is_being_made(run: tt.Investigation) -> None:
    def step_in(token_id: int, logits: torch.Tensor) -> None:
        run.intervene(intervention("steer"))

    with pytest.raises(tt.TokentapeError, match="under way"):
        run.chat("One?", max_new_tokens=2, callback=step_in)


def test_without_a_recorder_it_just_acts(lm: tt.LoadedModel) -> None:
    ids = random_ids(9, 1)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    plain = generator.generate(ids, max_new_tokens=8, **GREEDY)
    generator.intervene(intervention("steer"))
    steered = generator.generate(ids, max_new_tokens=8, **GREEDY)

    assert plain["generated_tokens"] != steered["generated_tokens"]
    assert not any(module._forward_hooks for module in lm.model.modules())


def test_a_vector_is_kept_once_and_by_its_sum(run: tt.Investigation, store: DatabaseStore) -> None:
    asked = intervention("steer", positions="prompt")
    run.intervene(asked)
    for _ in range(3):
        run.chat("One?", max_new_tokens=2, **GREEDY)
    events = [each.event for each in store.recording(run.run_id).events()]
    begun = [each for each in events if isinstance(each, InterventionApplied)]

    assert [each.tensor_sha256 for each in begun] == [asked.tensor_sha256] * 3
    assert store.blob(asked.tensor_sha256)
    assert json.dumps(begun[0].schedule) == "{}"


def test_another_one_of_the_same_name_takes_its_place(
    run: tt.Investigation, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Between two turns: nothing was recorded of the change but that it acts from there on."""
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


def test_a_turn_that_breaks_off_leaves_nothing_behind(
    run: tt.Investigation, lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """What acted on its reply has nothing to act on; the next turn is decided anew."""

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


# The projection alone.


def shape(acting: ActiveInterventions) -> list[tuple[str, int, int | None, int | None]]:
    return [(each.name, each.start, each.end, each.tensor_start) for each in acting.ranges]


def test_ranges_move_with_the_ids() -> None:
    rows = intervention("patch", name="rows")
    acting = ActiveInterventions().applied(applied(rows, 10))
    acting = acting.removed(InterventionRemoved(turn=1, position=30, name="rows"))
    acting = acting.applied(applied(intervention("scale", name="on"), 25))
    pruned = acting.pruned([(0, 4), (15, 20)])

    assert shape(pruned) == [
        ("rows", 6, 11, -4),
        ("rows", 11, 21, -9),
        ("on", 16, None, None),
    ]
    assert shape(acting.rewritten(12)) == [("rows", 10, 12, 0), ("on", 12, None, None)]
    assert shape(acting.restarted(7)) == [("on", 7, None, None)]
    assert [(each.start, each.end) for each in acting.over(27)] == [(10, 27), (25, 27)]
    assert (
        ActiveInterventions().pruned([(0, 4)])
        == ActiveInterventions().rewritten(3)
        == ActiveInterventions()
    )


def test_a_turn_that_goes_on_in_another_process_keeps_what_acts(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """Cut off behind a token, restored from the events, and gone on with: nothing is recorded
    twice, and what a kill kept from being recorded is made up for."""
    asked = intervention("steer", from_step=1)
    ids = random_ids(9, 1)

    def begin(recorder: Recorder | None) -> tt.ManualGenerator:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        generator.intervene(asked)
        return generator

    with Recorder(store) as recorder:
        begin(recorder).generate(ids, max_new_tokens=6, **GREEDY)
    (whole,) = store.recording(recorder.run_id).turns()
    cut = recorder_of_beginning(store, recorder.run_id, tokens=2)
    turn = cut[0]
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.intervene(asked)
    generator.restore([turn], generator.conversation, RequestedInterventions(), store.blob)
    prompt = generator.conversation.own_prompt(ids)
    result = generator.resume_turn(turn, prompt, chosen_six(lm))

    assert turn.acting == ActiveInterventions()
    assert result.token_ids == whole.reply_ids
    assert generator._engine.steering.acting == whole.acting


def chosen_six(lm: tt.LoadedModel) -> Any:
    from tokentape.generation.engine.turn import turn_settings

    return turn_settings(lm.model, max_new_tokens=6, do_sample=False)


def recorder_of_beginning(store: DatabaseStore, run_id: str, tokens: int) -> list[Any]:
    """The turns of a run as they are when it is killed behind so many tokens."""
    from tokentape.recorder.events import TokenSampled
    from tokentape.recorder.projections import iterate_turns

    envelopes = []
    for envelope in store.recording(run_id).events():
        envelopes.append(envelope)
        if isinstance(envelope.event, TokenSampled) and envelope.event.step == tokens - 1:
            break
    return list(iterate_turns(envelopes))


def killed(store: DatabaseStore, run_id: str, events: int) -> DatabaseStore:
    """A store that has so many events of a run, and all payloads."""
    rest = tt.open_store("sqlite://")
    assert isinstance(rest, DatabaseStore)
    for envelope in itertools.islice(store.recording(run_id).events(), events):
        event = envelope.event
        if isinstance(event, InterventionRequested) and event.tensor_sha256:
            rest.put_blob(event.tensor_sha256, store.blob(event.tensor_sha256))
        if isinstance(event, RunStarted):
            rest.put_blob(event.weights_sha256, store.blob(event.weights_sha256))
        rest.append(envelope, durable=False)
    return rest


def test_killed_anywhere_a_steered_run_goes_on_to_the_same_tokens(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """From what was asked for before its second turn to its third; nobody asks again."""

    def say(run: tt.Investigation, *turns: int) -> None:
        for turn in turns:
            run.chat(f"And {turn}?", max_new_tokens=4, do_sample=True, temperature=0.9)

    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=5) as run:
        run.intervene(intervention("steer", name="on"))
        run.intervene(intervention("scale", name="last", layer=1, positions="last"))
        run.intervene(intervention("ablate_zero", name="own", layer=1, from_step=1))
        say(run, 1)
        run.withdraw("own")
        run.intervene(intervention("steer", name="later", layer=2, turns=(3, None), seed=3))
        run.intervene(intervention("scale", name="anew", layer=2), clear_cache=True)
        say(run, 2, 3)
    recording = store.recording(run.run_id)
    events = [each.event for each in recording.events()]
    starts = [place for place, each in enumerate(events) if isinstance(each, TurnStarted)]
    assert isinstance(events[starts[1] + 1], InterventionApplied)
    cleared = next(place for place, each in enumerate(events) if isinstance(each, CacheCleared))
    for cut in range(cleared, starts[2] - 1):
        with killed(store, run.run_id, cut) as rest:
            with tt.Investigation.resume(rest, run.run_id, lm) as resumed:
                say(resumed, *range(resumed.generator.turn + 1, 4))
            again = rest.recording(run.run_id)
            for ours, theirs in zip(again.turns(), recording.turns(), strict=True):
                assert ours.reply_ids == theirs.reply_ids, cut
                assert ranges_of(ours) == ranges_of(theirs), cut
            if cut % 5 == 0:
                assert tt.verify(again, lm).verdict is tt.Verdict.VERIFIED


def test_a_fork_begins_under_what_acted_where_it_parts(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    with tt.Investigation(lm, store=store, name="t", system_prompt="Be kind.", seed=5) as run:
        run.intervene(intervention("steer"))
        run.chat("One?", max_new_tokens=3, **GREEDY)
        run.withdraw("it")
        run.chat("Two?", max_new_tokens=3, **GREEDY)
    with tt.Investigation.fork(store, run.run_id, lm, at_turn=2) as fork:
        fork.chat("Two?", max_new_tokens=3, **GREEDY)
    recording = store.recording(fork.run_id)
    first, second = recording.turns()

    assert ranges_of(second)[0][1:] == (first.interventions[0].start, len(second.prompt_ids) + 3)
    assert tt.verify(recording, lm).verdict is tt.Verdict.VERIFIED


def test_what_a_predicate_decided_has_to_be_given_again(
    lm: tt.LoadedModel, store: DatabaseStore
) -> None:
    """And what a store does not have cannot act."""
    with Recorder(store) as recorder:
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
        generator.intervene(intervention("steer", name="asked", when=lambda state: True))
        generator.generate(random_ids(9, 1), max_new_tokens=3, **GREEDY)
    recording = store.recording(recorder.run_id)
    turns, asked = recording.turns(), RequestedInterventions.of(recording.events())
    other = tt.ManualGenerator(lm.model, lm.tokenizer)

    with pytest.raises(tt.ModelError, match="a predicate decides where intervention 'asked' acts"):
        other.restore(turns, other.conversation, asked, store.blob)
    other.intervene(intervention("steer", name="asked", when=lambda state: True))
    other.restore(turns, other.conversation, asked, store.blob)
    assert other._engine.steering.acting == turns[-1].acting
    with pytest.raises(tt.ModelError, match="'asked' is not at hand"):
        tt.ManualGenerator(lm.model, lm.tokenizer).restore(turns, other.conversation, asked)


class Interventions(RuleBasedStateMachine):
    """Whatever is asked for, and in whatever order: a cold run under the recorded marks agrees."""

    lm: ClassVar[tt.LoadedModel]

    def __init__(self) -> None:
        super().__init__()
        self.lm = MODELS.setdefault(
            "llama", tiny_model("llama", byte_tokenizer(), max_position_embeddings=150)
        )
        self.store = tt.open_store("sqlite://")
        self.run = tt.Investigation(
            self.lm,
            store=self.store,  # type: ignore[arg-type]
            name="any order",
            system_prompt="Hi.",
            at_context_limit="prune_turns",
        )
        self.run.__enter__()
        self.asked: list[str] = []
        self.count = 0
        self.turns = 0

    @rule(
        kind=st.sampled_from(KINDS),
        layer=st.integers(0, 2),
        positions=st.one_of(
            st.sampled_from(["all", "prompt", "generated", "last"]),
            st.tuples(st.integers(0, 90), st.integers(1, 60)).map(lambda p: (p[0], p[0] + p[1])),
        ),
        from_step=st.sampled_from([None, None, 0, 2]),
        clear=st.booleans(),
    )
    def intervene(
        self, kind: str, layer: int, positions: Any, from_step: int | None, clear: bool
    ) -> None:
        if positions in ("prompt", "last"):
            from_step = None
        # Names come back, with something else under them.
        name = f"n{self.count % 3}"
        self.count += 1
        if name in self.asked:
            return
        asked = intervention(
            kind, name=name, layer=layer, positions=positions, from_step=from_step, seed=self.count
        )
        self.run.intervene(asked, clear_cache=clear)
        self.asked.append(name)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 9), clear=st.booleans())
    def withdraw(self, which: int, clear: bool) -> None:
        name = self.asked.pop(which % len(self.asked))
        self.run.withdraw(name, clear_cache=clear)

    @precondition(lambda self: self.turns < 7)
    @rule(tokens=st.integers(1, 4))
    def chat(self, tokens: int) -> None:
        self.turns += 1
        self.run.chat("Hm?", max_new_tokens=tokens, **GREEDY)

    @precondition(lambda self: self.turns < 7)
    @rule()
    def ask_beside(self) -> None:
        """A prompt of its own, behind the system prompt."""
        self.turns += 1
        self.run.generator.generate("What?", max_new_tokens=2, **GREEDY)

    @rule()
    def clear(self) -> None:
        self.run.generator.clear_cache()

    def teardown(self) -> None:
        self.run.__exit__(None, None, None)
        recording = self.store.recording(self.run.run_id)
        if self.turns:
            report = tt.verify(recording, self.lm)

            assert report.verdict in (tt.Verdict.VERIFIED, tt.Verdict.NEAR_TIE), report.reason
            last = recording.turns()[-1].number
            assert tt.regenerate(recording, self.lm, turns=[last]).passes
            engine = self.run.generator._engine
            assert engine.steering.acting == recording.turns()[-1].acting
        self.store.close()


MODELS: dict[str, tt.LoadedModel] = {}
TestInterventions = Interventions.TestCase
TestInterventions.settings = settings(
    max_examples=25,
    stateful_step_count=14,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_events_of_an_intervention_stand_between_the_turns_start_and_its_cache_decision(
    run: tt.Investigation, store: DatabaseStore
) -> None:
    run.intervene(intervention("steer", positions="last"))
    run.chat("One?", max_new_tokens=2, **GREEDY)
    events = [each.event for each in store.recording(run.run_id).events()]
    kinds = [type(each).__name__ for each in events]
    start = next(i for i, each in enumerate(events) if isinstance(each, TurnStarted))

    assert kinds[start : start + 6] == [
        "TurnStarted",
        "InterventionApplied",
        "CacheDecided",
        "PrefillCompleted",
        "TokenSampled",
        "InterventionRemoved",
    ]
