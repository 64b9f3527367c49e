"""The memory of a conversation is reckoned before it begins."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import tokentape as tt
from tokentape.generation.hf import KvLayer
from tokentape.generation.models.forward_memory import ForwardShape, transient_bytes
from tokentape.generation.models.model_sizes import ModelSizes
from tokentape.generation.plans import begin_plan, load_plan, run_plan
from tokentape.generation.plans.memory_plan import (
    CacheUse,
    MemoryPlan,
    TurnLength,
    reckon_memory,
)
from tokentape.generation.plans.plan_memory import device_memory
from tokentape.recorder.events import CacheDecided

GIB = 1024**3
LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
PROMPTS = (6287, 6614, 12783)
USE = CacheUse(reuses=True, snapshots=False, splits_prefill=True)
SMALL = ModelSizes(
    name="small",
    family="llama",
    parameters=25_000_000,
    dtype="float32",
    weights_bytes=100_000_000,
    forward=ForwardShape(
        hidden=64,
        mlp=96,
        heads=4,
        kv_heads=2,
        head_dim=16,
        vocabulary=272,
        item_bytes=4,
        eager=False,
        last_logits_only=True,
        windowed=False,
        recurrent_states=0,
    ),
    layers=(
        KvLayer(
            token_bytes=4096,
            window_tokens=None,
            fixed_bytes=0,
            grows_in_place=True,
            forks_share=True,
        ),
    )
    * 3,
    context_tokens=100_000,
    attention="sdpa",
)


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("configs") / "config.json"
    file.write_text(json.dumps(LLAMA_8B))
    return file


def test_a_bare_config_is_enough(llama_8b: Path) -> None:
    plan = tt.plan_memory(llama_8b, prompt_tokens=PROMPTS, device="cuda:24GiB", dtype="bfloat16")

    assert (plan.parameters, plan.weights_bytes) == (8_030_261_248, 16_060_522_496)
    assert plan.kv_bytes_per_1000_tokens == 131_072_000
    assert [turn.prompt_tokens for turn in plan.turns] == [*PROMPTS]
    # All but the last token of a reply is cached; the first reply has 326 tokens.
    assert [turn.computed_tokens for turn in plan.turns] == [6287, 2, 12783 - 6614 - 499]
    assert plan.turns_fit == 3
    assert plan.free_bytes == 24 * GIB - plan.largest.needed_bytes > 5 * GIB


def test_weights_that_are_computed_with_in_float32_need_a_float32_cache_and_one_cast(
    llama_8b: Path,
) -> None:
    narrow, cast, whole = (
        tt.plan_memory(
            llama_8b,
            prompt_tokens=PROMPTS,
            device="cuda:48GiB",
            dtype=dtype,
            compute_dtype=compute_dtype,
        )
        for dtype, compute_dtype in (
            ("bfloat16", None),
            ("bfloat16", "float32"),
            ("float32", "float32"),
        )
    )

    assert (cast.dtype, cast.weights_bytes) == ("bfloat16", narrow.weights_bytes)
    assert cast.kv_bytes_per_1000_tokens == whole.kv_bytes_per_1000_tokens == 262_144_000
    assert cast.largest.kv_bytes == whole.largest.kv_bytes
    assert replace(cast.largest.transient, cast=0) == whole.largest.transient
    assert cast.largest.transient.cast == 4 * 128_256 * 4096
    with pytest.raises(tt.ModelError, match="float32 weights cannot be computed with in bfloat16"):
        tt.plan_memory(llama_8b, dtype="float32", compute_dtype="bfloat16")


def test_scores_of_a_whole_prompt_do_not_fit(llama_8b: Path) -> None:
    plan = tt.plan_memory(
        llama_8b,
        prompt_tokens=(12783,),
        device="cuda:24GiB",
        dtype="bfloat16",
        attn_implementation="eager",
        prefill_chunk_tokens=0,
    )
    scores = 32 * 12783**2

    assert plan.turns_fit == 0
    # A tensor of scores has 2 bytes each: the 10.5 GB that ran out. Softmax needs four more.
    assert plan.largest.transient.attention == pytest.approx(10 * scores, rel=0.02)
    assert 2 * scores == 10_457_925_696


@settings(max_examples=30)
@given(
    prompts=st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    gib=st.floats(0.11, 4),
    chunk=st.none() | st.integers(10, 700),
)
def test_the_budget_keeps_a_conversation_within_the_device(
    prompts: list[int], gib: float, chunk: int | None
) -> None:
    plan = reckoned(prompts, int(gib * GIB), chunk)
    budget = plan.budget
    if budget is None:
        assert gib < 0.75
        return
    assert budget.context_tokens is not None
    for tokens in (budget.context_tokens, budget.context_tokens // 2 + 1):
        within = reckon_memory(
            SMALL,
            USE,
            [TurnLength(prompt_tokens=tokens - 1, new_tokens=1)],
            device="cpu",
            device_bytes=plan.device_bytes,
            prefill_chunk_tokens=budget.prefill_chunk_tokens,
        )
        assert within.turns_fit == 1


@settings(max_examples=30)
@given(prompts=st.lists(st.integers(1, 3000), min_size=1, max_size=6), gib=st.floats(0.1, 2))
def test_more_memory_never_fits_fewer_turns(prompts: list[int], gib: float) -> None:
    little, much = (reckoned(prompts, int(each * GIB), 512) for each in (gib, 2 * gib))

    assert little.turns_fit <= much.turns_fit
    assert little.turns == tuple(
        each for each in little.turns if each.fits == (each.needed_bytes <= little.device_bytes)
    )


@given(
    new=st.integers(1, 4000),
    more=st.integers(1, 4000),
    held=st.integers(0, 4000),
    eager=st.booleans(),
)
def test_more_tokens_need_more_transient_memory(
    new: int, more: int, held: int, eager: bool
) -> None:
    shape = replace(SMALL.forward, eager=eager)
    few = transient_bytes(shape, new_tokens=new, total_tokens=new + held)
    longer = transient_bytes(shape, new_tokens=new, total_tokens=new + held + more)
    wider = transient_bytes(shape, new_tokens=new + more, total_tokens=new + more + held)

    assert few.total <= longer.total
    assert few.total < wider.total


def reckoned(increments: list[int], device_bytes: int, chunk: int | None) -> MemoryPlan:
    """Return the plan of prompts that grow by these numbers of tokens."""
    turns = [
        TurnLength(prompt_tokens=sum(increments[: number + 1]) + 20 * number, new_tokens=20)
        for number in range(len(increments))
    ]
    return reckon_memory(
        SMALL,
        USE,
        turns,
        device="cpu",
        device_bytes=device_bytes,
        prefill_chunk_tokens=chunk,
    )


def test_the_prompts_of_a_plan_are_as_long_as_those_of_its_run(
    make_lm: Callable[..., tt.LoadedModel], tmp_path: Path
) -> None:
    lm = make_lm("llama", max_position_embeddings=32768)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    plan = load_plan("phase1a").with_overrides(turns_max=5, max_new_tokens=8)
    expected = tt.plan_memory(tmp_path, protocol=plan, device="cpu:16GiB")
    with tt.open_store("sqlite://") as store, begin_plan(plan, lm, store) as run:
        run_plan(run, plan)
        events = [each.event for each in store.recording(run.run_id).events()]
    prompts = [each.prompt_tokens for each in events if isinstance(each, CacheDecided)]

    assert [turn.prompt_tokens for turn in expected.turns] == pytest.approx(prompts, rel=0.05)
    assert len(prompts) == 5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cuda:24GiB", ("cuda", 24 * GIB)),
        ("cpu:16GB", ("cpu", 16_000_000_000)),
        ("cuda:1.5 gib", ("cuda", 3 * GIB // 2)),
        ("CPU:512MiB", ("cpu", GIB // 2)),
    ],
)
def test_a_device_has_a_size(text: str, found: tuple[str, int]) -> None:
    assert device_memory(text) == found


def test_the_free_memory_of_a_device_is_asked() -> None:
    kind, size = device_memory("cpu")

    assert kind == "cpu"
    assert size > 10_000_000


@pytest.mark.parametrize("text", ["", "gpu", "cuda:24", "cuda:-3GiB", "cpu:GiB", "mps:16GiB", "\0"])
def test_a_device_that_is_not_understood_is_named(text: str) -> None:
    with pytest.raises(tt.ModelError, match="there is no"):
        device_memory(text)


@pytest.mark.parametrize("prompts", [(10, 10), (10, 5), (0, 3), (5, 11, 11)])
def test_prompts_that_do_not_grow_are_refused(prompts: tuple[int, ...], tiny_folder: Path) -> None:
    with pytest.raises(tt.ModelError, match=r"the prompt of turn \d has \d+ tokens"):
        tt.plan_memory(tiny_folder, prompt_tokens=prompts, device="cpu:1GiB")


@pytest.mark.parametrize(
    ("kind", "kv_bytes"),
    [
        # Compressed keys and values (MLA), as this release caches them; experts.
        ("DeepseekV3Config", None),
        ("MixtralConfig", 32 * 2 * 8 * 128 * 2),
        ("JambaConfig", 4 * 2 * 8 * 128 * 2),
        ("Mamba2Config", 0),
    ],
)
def test_families_that_no_test_runs_are_reckoned_too(
    kind: str, kv_bytes: int | None, tmp_path: Path
) -> None:
    getattr(transformers, kind)().save_pretrained(tmp_path)
    plan = tt.plan_memory(
        tmp_path / "config.json", prompt_tokens=(500, 900), device="cuda:80GiB", dtype="bfloat16"
    )
    assert plan.parameters > 10**9
    assert kv_bytes is None or plan.kv_bytes_per_1000_tokens == 1000 * kv_bytes


def test_a_quantized_checkpoint_is_noted(tmp_path: Path) -> None:
    quantized = LLAMA_8B | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(quantized))
    plan = tt.plan_memory(
        tmp_path / "config.json", prompt_tokens=(50,), device="cuda:24GiB", dtype="float16"
    )
    assert any("is quantized" in note for note in plan.notes)
