"""The memory of weights and caches is reckoned exactly, without the weights."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tokentape as tt
from benchmarks.tiny_models import FAMILIES, random_ids
from tokentape.generation import hf
from tokentape.generation.cache import cache_policy
from tokentape.generation.models.kv_memory import KvSimulation, content_bytes
from tokentape.generation.models.model_sizes import ModelSizes, meta_model, model_sizes
from tokentape.recorder.events import (
    CacheMode,
    MemorySampled,
    PrefillCompleted,
    SystemPromptCached,
    TurnFinished,
)
from tokentape.store import DatabaseStore

DTYPES = (torch.float32, torch.bfloat16)


def sizes_on_meta(model: Any, folder: Path) -> ModelSizes:
    """Return the sizes that are read from the saved config alone."""
    model.config.save_pretrained(folder)
    dtype = str(model.dtype).removeprefix("torch.")
    return model_sizes(meta_model(folder / "config.json", dtype=dtype), "tiny")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_from_the_config_alone(
    family: str, dtype: torch.dtype, make_lm: Callable[..., tt.LoadedModel], tmp_path: Path
) -> None:
    model = make_lm(family, dtype=dtype).model
    sizes = sizes_on_meta(model, tmp_path)

    assert sizes.weights_bytes == sum(each.nbytes for each in model.parameters())
    assert sizes.parameters == model.num_parameters()


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings_count_once(
    tied: bool, make_lm: Callable[..., tt.LoadedModel], tmp_path: Path
) -> None:
    model = make_lm("llama", tie_word_embeddings=tied).model
    sizes = sizes_on_meta(model, tmp_path)

    assert sizes.weights_bytes == sum(each.nbytes for each in model.parameters())
    # One matrix more: 272 ids of 64 float32 numbers.
    assert sizes.weights_bytes == 440_064 + (0 if tied else 272 * 64 * 4)


@pytest.mark.parametrize("quantization", ["int8", "float8", "int4", "int2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_weights_are_counted_to_the_byte(
    quantization: str, dtype: str, tiny_folder: Path
) -> None:
    pytest.importorskip("optimum.quanto")
    packed = tt.load_model(tiny_folder, dtype=dtype, quantization=quantization).model
    # The scales of activations are not used.
    tensors = {
        name: each
        for name, each in packed.state_dict().items()
        if not name.endswith(("input_scale", "output_scale"))
    }
    found = tt.plan_memory(
        tiny_folder,
        prompt_tokens=(9,),
        device="cpu:1GiB",
        dtype=dtype,
        quantization=quantization,
    )
    assert found.weights_bytes == sum(each.nbytes for each in tensors.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_caches_of_a_run_are_counted_to_the_byte(
    family: str,
    dtype: torch.dtype,
    make_lm: Callable[..., tt.LoadedModel],
    store: DatabaseStore,
    tmp_path: Path,
) -> None:
    lm = make_lm(family, dtype=dtype)
    with tt.Investigation(
        lm,
        store=store,
        name="kv",
        system_prompt="Be kind. " * 12,
        prefill_chunk_tokens=40,
    ) as run:
        # The recurrent ones are slow. In the others, the second reply outgrows its buffer.
        second = 9 if family in ("mamba", "qwen3-next") else 150
        for length, new_tokens in ((30, 7), (3, second), (120, 1), (60, 9)):
            run.chat("w" * length, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
    snapshots = cache_policy(lm.model).mode == CacheMode.SNAPSHOTS
    assert snapshots == (family not in ("llama", "qwen3", "gpt2"))

    layers = sizes_on_meta(lm.model, tmp_path).layers
    expected, recorded = counted_and_recorded(
        KvSimulation(layers, snapshots=snapshots), store.recording(run.run_id)
    )
    assert recorded == expected
    assert len(recorded) == 5


def counted_and_recorded(
    simulation: KvSimulation, recording: tt.Recording
) -> tuple[list[int], list[int]]:
    """Return the bytes of the caches after the system prompt and each turn, both ways."""
    counted, recorded = [], []
    chunks: Sequence[int] = ()
    for each in recording.events():
        event = each.event
        if isinstance(event, SystemPromptCached):
            counted.append(simulation.system_prompt(event.chunks).stored_bytes)
            recorded.append(event.kv_bytes)
        if isinstance(event, PrefillCompleted):
            chunks = event.chunks
        if isinstance(event, MemorySampled):
            recorded.append(event.kv_bytes)
        if isinstance(event, TurnFinished):
            counted.append(simulation.turn(chunks, event.generated_tokens).stored_bytes)
    return counted, recorded


@pytest.mark.parametrize("family", FAMILIES)
def test_the_contents_of_a_cache_are_counted_to_the_byte(
    family: str, make_lm: Callable[..., tt.LoadedModel], tmp_path: Path
) -> None:
    model = make_lm(family).model
    layers = sizes_on_meta(model, tmp_path).layers
    for tokens in (1, 15, 16, 40):
        cache = hf.new_cache(model)
        ids = torch.tensor([random_ids(tokens, seed=1)])
        hf.Decoder(model, hf.prefill_config(model), ids, cache).prefill(1)
        hf.compact(cache)
        # A layer with a window keeps a view of the storage of one token more.
        spare = sum(
            each.token_bytes * (each.window_tokens is not None and tokens >= each.window_tokens)
            for each in layers
        )
        assert hf.kv_bytes(cache) == content_bytes(layers, tokens) + spare


def test_the_oldest_snapshots_are_evicted_as_in_a_run(
    make_lm: Callable[..., tt.LoadedModel], store: DatabaseStore, tmp_path: Path
) -> None:
    lm = make_lm("gemma3")
    with tt.Investigation(
        lm, store=store, name="kv", system_prompt="Be kind.", cache_bytes=300_000
    ) as run:
        for _ in range(6):
            run.chat("w" * 40, max_new_tokens=90, min_new_tokens=90)
    layers = sizes_on_meta(lm.model, tmp_path).layers
    expected, recorded = counted_and_recorded(
        KvSimulation(layers, snapshots=True, budget_bytes=300_000), store.recording(run.run_id)
    )
    assert recorded == expected
    assert max(recorded) <= 300_000
