"""A prompt reuses the longest cached prefix, and the reply is that of a cold run."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokentape as tt
from tokentape.generation import hf
from tokentape.generation.cache import decide_reuse

ids = st.lists(st.integers(0, 3), max_size=12)


@given(cached=ids, prompt=ids.filter(bool))
def test_reuse_is_the_longest_common_prefix_but_never_the_whole_prompt(
    cached: Sequence[int], prompt: Sequence[int]
) -> None:
    reuse = decide_reuse(cached, prompt)
    kept = reuse.reused_tokens

    assert list(cached[:kept]) == list(prompt[:kept])
    assert kept <= len(prompt) - 1
    could_be_longer = kept < len(prompt) - 1 and kept < len(cached)
    assert not (could_be_longer and cached[kept] == prompt[kept])
    if reuse.divergence_index is not None:
        index = reuse.divergence_index
        assert cached[index] == reuse.divergence_cached_id
        assert prompt[index] == reuse.divergence_prompt_id
        assert reuse.divergence_cached_id != reuse.divergence_prompt_id


@pytest.mark.parametrize(
    ("cached", "prompt", "decision", "reason", "reused", "cropped"),
    [
        ([], [1, 2], "miss", "cold", 0, 0),
        ([1, 2], [1, 2, 3], "hit", "extends", 2, 0),
        ([1, 2, 3], [1, 2, 3], "hit", "covers_prompt", 2, 1),
        ([1, 2, 3, 4], [1, 2], "hit", "covers_prompt", 1, 3),
        ([1, 2, 9], [1, 2, 3], "partial", "token_divergence", 2, 1),
        ([9, 2], [1, 2], "miss", "token_divergence", 0, 0),
        ([1, 2], [1], "miss", "covers_prompt", 0, 0),
    ],
)
def test_a_decision_has_a_reason(
    cached: list[int], prompt: list[int], decision: str, reason: str, reused: int, cropped: int
) -> None:
    reuse = decide_reuse(cached, prompt)

    assert (reuse.decision, reuse.reason) == (decision, reason)
    assert (reuse.reused_tokens, reuse.cropped_tokens) == (reused, cropped)


prompts = st.lists(st.lists(st.integers(3, 8), min_size=1, max_size=20), min_size=1, max_size=6)


@given(prompts=prompts, pin=st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prompts_in_any_order_give_the_replies_of_cold_runs(
    lm: tt.LoadedModel, prompts: list[list[int]], pin: bool
) -> None:
    warm = tt.ManualGenerator(lm.model, lm.tokenizer)
    if pin:
        warm.cache_system_prompt("Be kind.")
    for prompt in prompts:
        whole = [*warm.conversation.system_ids, *prompt]
        cold = tt.ManualGenerator(lm.model, lm.tokenizer)
        said = warm.generate(whole, max_new_tokens=4, do_sample=False)
        expected = cold.generate(whole, max_new_tokens=4, do_sample=False)

        assert said["generated_tokens"] == expected["generated_tokens"]
        if pin:
            assert said["cache"].reused_tokens >= len(warm.conversation.system_ids)


def test_the_system_prompt_stays_cached_after_an_unrelated_prompt(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt("Be kind and brief.")
    system = len(generator.conversation.ids)
    generator.generate("First", max_new_tokens=4, do_sample=False)
    generator.generate([7, 8, 9], max_new_tokens=4, do_sample=False)
    back = generator.generate("Second", max_new_tokens=4, do_sample=False)

    assert back["cache"].reused_tokens >= system


def test_a_cache_of_other_weights_is_not_used(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate([5] * 20, max_new_tokens=4, do_sample=False)
    with torch.no_grad():
        lm.model.model.layers[0].self_attn.q_proj.weight.mul_(1.5)
    again = generator.generate([5] * 20, max_new_tokens=4, do_sample=False)
    cold = tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        [5] * 20, max_new_tokens=4, do_sample=False
    )

    assert again["cache"].reason == "key_changed:weights"
    assert again["cache"].key_field == "weights"
    assert again["generated_tokens"] == cold["generated_tokens"]


def test_another_attention_kernel_is_another_cache(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate([5] * 20, max_new_tokens=4, do_sample=False)
    lm.model.set_attn_implementation("eager")
    again = generator.generate([5] * 20, max_new_tokens=4, do_sample=False)

    assert again["cache"].reason == "key_changed:attention_kernel"


def test_a_full_sliding_window_is_never_cropped(make_lm: Callable[..., tt.LoadedModel]) -> None:
    lm = make_lm("mistral")
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt("Be kind and brief, and mind the window of attention.")
    system = generator.conversation.ids
    first = generator.generate([*system, 5, 6, 7], max_new_tokens=6, do_sample=False)
    again = generator.generate([*system, 5, 6, 8], max_new_tokens=6, do_sample=False)
    cold = tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        [*system, 5, 6, 8], max_new_tokens=6, do_sample=False
    )

    assert (first["cache"].decision, first["cache"].reused_tokens) == ("hit", len(system))
    assert (again["cache"].decision, again["cache"].reused_tokens) == ("partial", len(system))
    assert again["cache"].reason == "not_croppable:DynamicSlidingWindowLayer"
    assert again["cache"].divergence_index == len(system) + 2
    assert again["generated_tokens"] == cold["generated_tokens"]


def test_a_sliding_cache_shorter_than_its_window_is_cropped_like_any_other(
    make_lm: Callable[..., tt.LoadedModel],
) -> None:
    lm = make_lm("mistral", sliding_window=64)
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate([5] * 20, max_new_tokens=4, do_sample=False)
    again = generator.generate([5] * 10 + [6], max_new_tokens=4, do_sample=False)
    cold = tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        [5] * 10 + [6], max_new_tokens=4, do_sample=False
    )

    assert (again["cache"].decision, again["cache"].reused_tokens) == ("partial", 10)
    assert again["cache"].reason == "token_divergence"
    assert again["generated_tokens"] == cold["generated_tokens"]


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_crop_that_fails_is_a_miss_with_a_reason(
    family: str, make_lm: Callable[..., tt.LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm(family, **{"sliding_window": 64} if family == "mistral" else {})
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate([5] * 20, max_new_tokens=4, do_sample=False)
    layer = type(hf.new_cache(lm.model).layers[0])
    crop, calls = layer.crop, []

    def breaks(self: object, count: int) -> None:
        calls.append(self)
        if len(calls) == 3:
            raise RuntimeError("half way")
        crop(self, count)

    monkeypatch.setattr(layer, "crop", breaks)
    said = generator.generate([5] * 10 + [6], max_new_tokens=4, do_sample=False)
    monkeypatch.setattr(layer, "crop", crop)
    cold = tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        [5] * 10 + [6], max_new_tokens=4, do_sample=False
    )

    assert said["cache"].reason == "crop_failed:RuntimeError"
    assert said["generated_tokens"] == cold["generated_tokens"]
    after = generator.generate([5] * 10 + [7], max_new_tokens=4, do_sample=False)
    assert after["cache"].reused_tokens == 10


def test_after_an_exception_in_the_callback_the_next_reply_is_right(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate([5] * 20, max_new_tokens=4, do_sample=False)

    def stop(token_id: int, logits: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.generate([5] * 25, max_new_tokens=4, do_sample=False, callback=stop)
    said = generator.generate([5] * 25, max_new_tokens=4, do_sample=False)
    cold = tt.ManualGenerator(lm.model, lm.tokenizer).generate(
        [5] * 25, max_new_tokens=4, do_sample=False
    )

    assert said["generated_tokens"] == cold["generated_tokens"]


def test_no_cache_means_no_reuse(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.generate([5] * 20, max_new_tokens=4, do_sample=False)
    said = generator.generate([5] * 20, max_new_tokens=4, do_sample=False, use_cache=False)

    assert said["cache"].decision == "bypass"
    assert said["cache_used"] is False


def test_clearing_the_cache_frees_its_bytes_and_is_recorded(
    lm: tt.LoadedModel, store: object
) -> None:
    recorder = tt.Recorder(store)  # type: ignore[arg-type]
    generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder)
    generator.cache_system_prompt("Be kind.")
    held = generator.kv_bytes
    generator.clear_cache()
    events = [each.event for each in store.recording(recorder.run_id).events()]  # type: ignore[attr-defined]

    tokens = len(generator.conversation.ids)
    room = 128
    # Keys and values, layers, heads, dimension, float32; spare capacity counts.
    assert held == 2 * 3 * 2 * 16 * (tokens + room) * 4
    assert generator.kv_bytes == 0
    assert events[-1].freed_bytes == held
    assert generator.generate("Hi", max_new_tokens=2)["cache"].reason == "cold"
