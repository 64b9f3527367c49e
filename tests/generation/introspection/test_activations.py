"""Monitors measure layers' outputs, change nothing, and remove their hooks."""

import json
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import FAMILIES, random_ids
from tokentape.generation import hf
from tokentape.generation.hooks.forward_positions import (
    DECODE,
    ForwardPositions,
    track_positions,
)
from tokentape.generation.hooks.layers import find_layer, output_of
from tokentape.generation.introspection import ActivationMonitor, HiddenStateTap
from tokentape.generation.introspection.activation_statistics import ActivationSpan
from tokentape.recorder.codec import encode_body

MakeLM = Callable[..., tt.LoadedModel]
PROMPT = random_ids(20, 1)
SAMPLED: dict[str, Any] = {"max_new_tokens": 6, "do_sample": True, "temperature": 0.8, "seed": 3}


def tensor(ids: list[int]) -> torch.Tensor:
    return torch.tensor([ids])


@contextmanager
def kept(model: torch.nn.Module, layer: str) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs of a layer."""
    given: list[torch.Tensor] = []
    module = find_layer(model, layer)[1]
    handle = module.register_forward_hook(
        lambda module, args, output: given.append(output_of(output).detach().clone())
    )
    yield given
    handle.remove()


def hooks_of(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def statistics(monitor: ActivationMonitor, layer: str, source: str | None = None) -> dict[str, Any]:
    span = monitor.latest(layer, source)
    assert span is not None
    found = span.statistics(full=True)
    json.dumps(found, allow_nan=False)
    return found


def assert_equal_to_numpy(found: dict[str, Any], rows: np.ndarray[Any, Any], start: int) -> None:
    """`rows` have shape (positions, channels)."""
    rows = rows.astype(np.float64)
    flat, norms, magnitudes = rows.reshape(-1), np.linalg.norm(rows, axis=1), np.abs(rows)
    off = flat - flat.mean()
    place, channel = np.unravel_index(magnitudes.argmax(), rows.shape)
    close = {
        "mean": flat.mean(),
        "std": flat.std(ddof=1),
        "l2_norm_mean": norms.mean(),
        "l2_norm_max": norms.max(),
        "abs_max": magnitudes.max(),
        "near_zero_percentage": 100.0 * (magnitudes < 1e-6).mean(),
        "kurtosis": (off**4).mean() / (off**2).mean() ** 2,
    }
    for name, value in close.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert (found["abs_max_position"], found["abs_max_channel"]) == (start + place, channel)
    means = magnitudes.mean(axis=0)
    top = found["top_channels"]
    assert [each["abs_mean"] for each in top] == pytest.approx(
        sorted(means)[: -len(top) - 1 : -1], rel=1e-4
    )
    assert [means[each["channel"]] for each in top] == pytest.approx(
        sorted(means)[: -len(top) - 1 : -1]
    )
    expected = np.percentile(flat, (5, 25, 50, 75, 95), method="nearest")
    assert list(found["percentiles"].values()) == pytest.approx(expected.tolist(), rel=0.005)
    assert sum(found["histogram"]["counts"]) == flat.size
    assert found["histogram"]["edges"][-1] == pytest.approx(flat.max(), rel=0.005)


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_numpy_over_prefill_and_over_decoding(
    make_lm: MakeLM, family: str
) -> None:
    lm = make_lm(family)
    monitor = ActivationMonitor(lm.model, [1], full=True)
    (name,) = monitor.layers
    with kept(lm.model, name) as given:
        forward = ForwardPositions(turn=4)
        with track_positions(lm.model, forward), monitor.observe(forward), torch.no_grad():
            cache = lm.model(tensor(PROMPT), use_cache=True)
            cached = hf.cache_argument(lm.model, hf.cache_of(cache))
            forward.source = DECODE
            for token in (7, 8, 9):
                lm.model(tensor([token]), use_cache=True, **cached)
    events = monitor.take_events()

    assert [(e.source, e.start, e.end, e.positions_covered) for e in events] == [
        ("prefill", 0, 20, 20),
        ("decode", 20, 21, 1),
        ("decode", 21, 22, 1),
        ("decode", 22, 23, 1),
    ]
    assert {each.turn for each in events} == {4}
    for event, rows in zip(events, given, strict=True):
        assert_equal_to_numpy(dict(event.statistics[name]), rows[0].numpy(), event.start)
        encode_body(event)
    decoded = torch.cat(given[1:], dim=1)[0]
    assert_equal_to_numpy(statistics(monitor, name, "prefill"), given[0][0].numpy(), 0)
    assert_equal_to_numpy(statistics(monitor, name, "decode"), decoded.numpy(), 20)
    span = monitor.latest(name)
    assert span is not None
    assert (span.source, span.start, span.end, span.positions_covered) == ("decode", 20, 23, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_logits_are_the_same_to_the_bit_and_the_cache_is_reused(
    make_lm: MakeLM, family: str
) -> None:
    lm = make_lm(family)
    plain: list[torch.Tensor] = []
    watched: list[torch.Tensor] = []
    first = tt.ManualGenerator(lm.model, lm.tokenizer)
    second = tt.ManualGenerator(lm.model, lm.tokenizer)
    settings = [
        (first, lambda token, logits: plain.append(logits.clone())),
        (second, lambda token, logits: watched.append(logits.clone())),
    ]
    results = []
    for number, (generator, callback) in enumerate(settings):
        begun = generator.generate(PROMPT, callback=callback, **SAMPLED)
        longer = [*PROMPT, *begun["generated_tokens"], *random_ids(9, 2)]
        monitor = ActivationMonitor(lm.model, [0, 1, "blocks.1.attn"], full=True)
        tap = HiddenStateTap(lm.model, [1])
        if number:
            with monitor.observe(), tap.observe():
                results.append(generator.generate(longer, callback=callback, **SAMPLED))
            assert len(monitor.take_events()) >= 5
        else:
            results.append(generator.generate(longer, callback=callback, **SAMPLED))

    assert results[0]["generated_tokens"] == results[1]["generated_tokens"]
    assert all(torch.equal(*pair) for pair in zip(plain, watched, strict=True))
    assert results[1]["cache"].decision == results[0]["cache"].decision
    assert results[1]["cache"].reused_tokens == results[0]["cache"].reused_tokens
    assert hooks_of(lm.model) == 0


def test_global_random_state_does_not_change(lm: tt.LoadedModel) -> None:
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    with ActivationMonitor(lm.model, [0], full=True).observe(), torch.no_grad():
        lm.model(tensor(PROMPT))

    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_a_tap_copies_the_last_position_and_the_copy_can_be_trained_on(lm: tt.LoadedModel) -> None:
    tap = HiddenStateTap(lm.model, ["-1", "model.layers.0.mlp"])
    with kept(lm.model, "-1") as given, tap.observe():
        tt.ManualGenerator(lm.model, lm.tokenizer).generate(
            PROMPT, max_new_tokens=3, do_sample=False
        )
    assert torch.equal(tap.latest["model.layers.2"], given[-1][0, -1])
    with tap.observe():
        tt.ManualGenerator(lm.model, lm.tokenizer).generate(
            PROMPT, max_new_tokens=3, do_sample=False
        )
    newest = tap.latest
    assert list(newest) == ["model.layers.0.mlp", "model.layers.2"]
    assert not any(each.is_inference() or each.requires_grad for each in newest.values())
    probe = torch.nn.Linear(64, 1)
    probe(newest["model.layers.2"]).sum().backward()
    assert probe.weight.grad is not None


def test_a_forward_that_fails_leaves_neither_measures_nor_hooks(lm: tt.LoadedModel) -> None:
    monitor = ActivationMonitor(lm.model, [0, 2])
    fails = lm.model.model.layers[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), monitor.observe(), torch.no_grad():
        lm.model(tensor(PROMPT))
    fails.remove()

    assert monitor.take_events() == []
    assert monitor.latest("model.layers.0") is None
    assert hooks_of(lm.model) == 0


def test_forwards_before_a_failed_one_keep_their_measures(lm: tt.LoadedModel) -> None:
    monitor = ActivationMonitor(lm.model, [0, 2])
    with pytest.raises(RuntimeError, match="stop"), monitor.observe(), torch.no_grad():
        lm.model(tensor(PROMPT))
        fails = lm.model.model.layers[1].register_forward_hook(stop)
        lm.model(tensor([5]))
    fails.remove()

    assert [(each.start, each.end) for each in monitor.take_events()] == [(0, 20)]


def stop(*args: object) -> None:
    raise RuntimeError("stop")


def test_two_monitors_measure_the_same_and_detach_separately(lm: tt.LoadedModel) -> None:
    one, other = (ActivationMonitor(lm.model, [1]) for _ in range(2))
    with torch.no_grad(), track_positions(lm.model) as forward, one.observe(forward):
        lm.model(tensor(PROMPT))
        with other.observe(forward):
            lm.model(tensor([5, 6]))
    both, single = one.take_events(), other.take_events()

    assert [(each.start, each.end) for each in both] == [(0, 20), (20, 22)]
    assert both[1:] == single


def test_a_module_that_is_called_twice_is_measured_over_both_calls(lm: tt.LoadedModel) -> None:
    lm.model.model.layers[2] = lm.model.model.layers[1]
    monitor = ActivationMonitor(lm.model, [1], full=True)
    with kept(lm.model, "model.layers.1") as given, monitor.observe(), torch.no_grad():
        lm.model(tensor(PROMPT))
        lm.model(tensor([5]))
    event, later = monitor.take_events()
    found = event.statistics["model.layers.1"]
    both = torch.cat([each[0] for each in given[:2]]).double()

    assert (event.positions_covered, later.positions_covered) == (20, 1)
    assert found["calls_per_forward"] == 2
    assert found["std"] == pytest.approx(both.std().item(), rel=1e-5)
    assert found["l2_norm_mean"] == pytest.approx(both.norm(dim=1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("bad", [[math.nan], [math.inf, -math.inf, math.nan]])
def test_values_that_are_not_finite_are_counted_and_left_out(
    lm: tt.LoadedModel, bad: list[float]
) -> None:
    rows = torch.randn(20, 64, generator=torch.Generator().manual_seed(1)) + 0.5
    rows[3, : len(bad)] = torch.tensor(bad)
    handle = lm.model.model.layers[1].register_forward_hook(lambda *_: rows[None].clone())
    monitor = ActivationMonitor(lm.model, [1], full=True)
    with monitor.observe(), torch.no_grad():
        lm.model(tensor(PROMPT))
    handle.remove()
    (event,) = monitor.take_events()
    found = event.statistics["model.layers.1"]
    finite = rows[rows.isfinite()].double()

    encode_body(event)
    assert found["not_finite"] == len(bad)
    assert found["mean"] == pytest.approx(finite.mean().item(), rel=1e-4)
    assert found["std"] == pytest.approx(finite.std().item(), rel=1e-4)
    assert found["near_zero_percentage"] == 0.0
    assert found["kurtosis"] is None
    assert sum(found["histogram"]["counts"]) == finite.numel()


@pytest.mark.parametrize(
    "value", [math.nan, 3e38, -3.4e38, 0.0, 1e-45], ids=["nan", "huge", "least", "zero", "tiny"]
)
def test_extreme_values_fit_into_an_event(lm: tt.LoadedModel, value: float) -> None:
    monitor = ActivationMonitor(lm.model, [1], full=True)
    with monitor.observe(), torch.no_grad():
        for each in (value, 1.0):
            handle = lm.model.model.layers[1].register_forward_hook(
                lambda *_, each=each: torch.full((1, 20, 64), each)
            )
            lm.model(tensor(PROMPT))
            handle.remove()
    for event in monitor.take_events():
        encode_body(event)
    statistics(monitor, "model.layers.1")


def test_prefill_chunks_add_up_to_one_span(lm: tt.LoadedModel) -> None:
    whole, parts = (ActivationMonitor(lm.model, ["1"], full=True) for _ in range(2))
    with torch.no_grad():
        with whole.observe():
            lm.model(tensor(PROMPT))
        with parts.observe():
            cache = lm.model(tensor(PROMPT[:7]), use_cache=True)
            given = hf.cache_argument(lm.model, hf.cache_of(cache))
            lm.model(tensor(PROMPT[7:]), **given)
    first, second = (statistics(each, "model.layers.1") for each in (whole, parts))

    assert [(e.start, e.end) for e in parts.take_events()] == [(0, 7), (7, 20)]
    assert first["kurtosis"] == pytest.approx(second["kurtosis"], rel=1e-4)
    assert first["std"] == pytest.approx(second["std"], rel=1e-5)
    assert first["abs_max_position"] == second["abs_max_position"]
    assert first["percentiles"] == pytest.approx(second["percentiles"], rel=0.01, abs=0.05)


def test_a_span_ends_with_the_turn_or_the_sequence(lm: tt.LoadedModel) -> None:
    monitor = ActivationMonitor(lm.model, [1])
    forward = ForwardPositions(turn=1)
    with track_positions(lm.model, forward), monitor.observe(forward), torch.no_grad():
        lm.model(tensor(PROMPT))
        forward.turn = 2
        lm.model(tensor([5, 6]))
        forward.start = forward.end = 3
        lm.model(tensor([5, 6]))
    span = monitor.latest("model.layers.1")

    assert isinstance(span, ActivationSpan)
    assert (span.turn, span.start, span.end) == (2, 3, 5)


def test_layers_that_compute_less_than_every_position_say_so(make_lm: MakeLM) -> None:
    lm = make_lm("qwen3-next")
    names = ["lm_head", "model.rotary_emb", "model.layers.0.mlp"]
    monitor = ActivationMonitor(lm.model, names)
    with monitor.observe(), torch.no_grad():
        lm.model(tensor(PROMPT), logits_to_keep=1)
    covered = {
        layer: (event.positions_covered, found["abs_max_position"] is None)
        for event in monitor.take_events()
        for layer, found in event.statistics.items()
    }

    assert covered["lm_head"] == (1, True)
    assert covered["model.layers.0.mlp"] == (20, False)


def test_layers_without_numbers_are_skipped(lm: tt.LoadedModel) -> None:
    class Mute(torch.nn.Identity):
        def forward(self, hidden: Any) -> Any:
            return None

    lm.model.mute = Mute()
    lm.model.model.norm.register_forward_hook(lambda *_: lm.model.mute(1) and None)
    monitor = ActivationMonitor(lm.model, ["mute", 0])
    with monitor.observe(), torch.no_grad():
        lm.model(tensor(PROMPT))
    (event,) = monitor.take_events()

    assert list(event.statistics) == ["model.layers.0"]


def test_a_single_layer_model_in_16_bits_is_observed(make_lm: MakeLM) -> None:
    lm = make_lm("llama", num_hidden_layers=1, dtype=torch.bfloat16)
    monitor = ActivationMonitor(lm.model, [0, "-1", "model.layers.0"], full=True)
    with kept(lm.model, "0") as given, monitor.observe(), torch.no_grad():
        lm.model(tensor(PROMPT))
    rows = given[0][0].float()
    (event,) = monitor.take_events()
    found = event.statistics["model.layers.0"]

    assert found["std"] == pytest.approx(rows.std().item(), rel=1e-4)
    ordered = rows.reshape(-1).sort().values
    assert found["percentiles"]["50"] == pytest.approx(
        ordered[round(0.5 * (len(ordered) - 1))].item(), rel=1e-5
    )


def test_measures_of_many_forwards_do_not_pile_up(
    lm: tt.LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokentape.generation.introspection.activations._PENDING_FORWARDS_MAX", 3)
    monitor = ActivationMonitor(lm.model, [0], events=False)
    forward = ForwardPositions(source=DECODE)
    with track_positions(lm.model, forward), monitor.observe(forward), torch.no_grad():
        for _ in range(10):
            lm.model(tensor([5]))
            assert len(monitor._pending) <= 3
    span = monitor.latest("model.layers.0")

    assert span is not None
    assert span.positions_covered == 10
    assert monitor.take_events() == []


def test_an_unknown_layer_is_rejected_by_the_constructor(lm: tt.LoadedModel) -> None:
    for kind in (ActivationMonitor, HiddenStateTap):
        with pytest.raises(tt.ToolError, match="there is no layer 7"):
            kind(lm.model, [7])
