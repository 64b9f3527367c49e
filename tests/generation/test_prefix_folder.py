"""Stored prefixes: a file is verified and used, or it is a miss with a reason."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import tokentape as tt
from benchmarks.tiny_models import random_ids
from tokentape.generation.cache import prefix_folder
from tokentape.generation.cache.prefix_key import prefix_key, signature
from tokentape.recorder.events import SystemPromptCached
from tokentape.store import DatabaseStore

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 6}
SYSTEM = "You are kind and brief, and you know what you were told in another process."


def engine(lm: tt.LoadedModel, folder: Path, **settings: Any) -> tt.ManualGenerator:
    return tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=folder, **settings)


def cold(lm: tt.LoadedModel, ids: list[int]) -> list[int]:
    return tt.ManualGenerator(lm.model, lm.tokenizer).generate(ids, **GREEDY)["generated_tokens"]


def only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mistral", "mamba", "qwen3-next"])
def test_a_stored_system_prompt_is_not_computed_again(
    family: str,
    dtype: torch.dtype,
    make_lm: Callable[..., tt.LoadedModel],
    tmp_path: Path,
    store: DatabaseStore,
) -> None:
    lm = make_lm(family, dtype=dtype)
    first = engine(lm, tmp_path)
    first.cache_system_prompt(SYSTEM)
    said = first.generate("Hello", **GREEDY)
    recorder = tt.Recorder(store)
    second = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, prefix_folder=tmp_path)
    second.cache_system_prompt(SYSTEM)
    again = second.generate("Hello", **GREEDY)
    cached = next(
        each.event
        for each in store.recording(recorder.run_id).events()
        if isinstance(each.event, SystemPromptCached)
    )

    assert (cached.source, cached.chunks, cached.disk_reason) == ("disk", (), "")
    assert again["generated_tokens"] == said["generated_tokens"]
    assert again["cache"].reused_tokens == len(second.conversation.system_ids)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_stored_conversation_can_be_continued(lm: tt.LoadedModel, tmp_path: Path) -> None:
    first = engine(lm, tmp_path)
    prompt = random_ids(50, 1)
    said = [*prompt, *first.generate(prompt, **GREEDY)["generated_tokens"]]
    assert first.store_prefix()
    again = engine(lm, tmp_path).generate([*said, 5, 6], **GREEDY)

    assert (again["cache"].reason, again["cache"].source) == ("extends", "disk")
    assert again["cache"].reused_tokens == len(said) - 1
    assert again["generated_tokens"] == cold(lm, [*said, 5, 6])


def test_the_longest_stored_prefix_is_taken_unless_memory_has_more(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    first = engine(lm, tmp_path)
    prompt = random_ids(50, 1)
    first.generate(prompt[:20], **GREEDY)
    first.store_prefix()
    first.generate(prompt, **GREEDY)
    first.store_prefix()
    second = engine(lm, tmp_path)

    assert second.generate([*prompt, 9], **GREEDY)["cache"].source == "disk"
    assert second.generate([*prompt, 9, 9], **GREEDY)["cache"].source == "memory"
    assert len(list(tmp_path.iterdir())) == 2


def test_another_process_restores_it(tiny_folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys, tokentape as tt\n"
        "lm = tt.load_model(sys.argv[1])\n"
        "g = tt.ManualGenerator(lm.model, lm.tokenizer, prefix_folder=sys.argv[2])\n"
        "r = g.generate(list(range(10, 60)), do_sample=False, max_new_tokens=5)\n"
        "g.store_prefix()\n"
        "print(r['cache'].source or 'computed', r['generated_tokens'])\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script, str(tiny_folder), str(tmp_path)],
            capture_output=True, text=True, check=True,
        ).stdout.split(maxsplit=1)
        for _ in range(2)
    ]  # fmt: skip

    assert [source for source, _ in said] == ["computed", "disk"]
    assert said[0][1] == said[1][1]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(b"\xff" * 5000)


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def rewrite(file: Path, **metadata: str) -> None:
    """Replace fields of the metadata in a well-formed file."""
    with safe_open(file, framework="pt") as opened:
        described = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_signed(tensors, file, described | metadata)


def save_signed(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
    """Write a file with the signature of this user."""
    save_file(tensors, file, metadata | {"signature": signature(prefix_key(), metadata)})


def foreign_format(file: Path) -> None:
    rewrite(file, format="something else")


def foreign_identity(file: Path) -> None:
    rewrite(file, identity=json.dumps({"dtype": "torch.int8"}))


def no_metadata(file: Path) -> None:
    save_file({"a": torch.zeros(3)}, file)


def huge_header(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 2**62) + file.read_bytes()[8:])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "unreadable"),
        (empty, "unreadable"),
        (garbage, "unreadable"),
        (huge_header, "unreadable"),
        (flip_last_byte, "damaged:sum"),
        (foreign_format, "foreign:something else"),
        (no_metadata, "foreign:no format"),
        (foreign_identity, "identity:"),
    ],
)
def test_a_bad_file_is_a_miss_with_a_reason(
    damage: Callable[[Path], None], reason: str, lm: tt.LoadedModel, tmp_path: Path
) -> None:
    first = engine(lm, tmp_path)
    prompt = random_ids(50, 1)
    first.generate(prompt, **GREEDY)
    first.store_prefix()
    damage(only_file(tmp_path))
    longer = [*prompt, *first.generate(prompt, **GREEDY)["generated_tokens"], 9]
    again = engine(lm, tmp_path).generate(longer, **GREEDY)

    assert again["cache"].decision == "miss"
    assert again["cache"].disk_reason.startswith(reason)
    assert again["generated_tokens"] == cold(lm, longer)


def test_a_bad_file_of_a_system_prompt_is_replaced(
    lm: tt.LoadedModel, tmp_path: Path, store: DatabaseStore
) -> None:
    engine(lm, tmp_path).cache_system_prompt(SYSTEM)
    truncate(only_file(tmp_path))
    sources = []
    for _ in range(2):
        recorder = tt.Recorder(store)
        generator = tt.ManualGenerator(lm.model, lm.tokenizer, recorder, prefix_folder=tmp_path)
        generator.cache_system_prompt(SYSTEM)
        event = [each.event for each in store.recording(recorder.run_id).events()][-1]
        assert isinstance(event, SystemPromptCached)
        sources.append((event.source, event.disk_reason.partition(":")[0]))

    assert sources == [("", "unreadable"), ("disk", "")]


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_is_ever_used(
    lm: tt.LoadedModel, tmp_path: Path, where: float, bit: int
) -> None:
    prompt = random_ids(50, 1)
    if not list(tmp_path.iterdir()):
        first = engine(lm, tmp_path)
        first.generate(prompt, **GREEDY)
        first.store_prefix()
    file = only_file(tmp_path)
    sound = file.read_bytes()
    flipped = bytearray(sound)
    flipped[int(where * len(flipped))] ^= 1 << bit
    file.write_bytes(flipped)
    longer = [*prompt, *cold(lm, prompt), 9]
    again = engine(lm, tmp_path).generate(longer, **GREEDY)
    file.write_bytes(sound)

    assert again["generated_tokens"] == cold(lm, longer)
    # A flip in the padding of the header changes nothing that is read.
    assert again["cache"].disk_reason or again["cache"].source == "disk"


def test_a_prefix_of_other_weights_is_not_found(
    lm: tt.LoadedModel,
    altered: Callable[..., tt.LoadedModel],
    tmp_path: Path,
) -> None:
    prompt = random_ids(50, 1)
    first = engine(lm, tmp_path)
    first.generate(prompt, **GREEDY)
    first.store_prefix()
    other = altered(lm, lambda model: model.model.layers[0].mlp.up_proj.weight.mul_(1.01))
    longer = [*prompt, *cold(lm, prompt), 9]
    again = engine(other, tmp_path).generate(longer, **GREEDY)

    assert (again["cache"].reason, again["cache"].disk_reason) == ("cold", "")
    assert again["generated_tokens"] == cold(other, longer)


def test_a_changed_buffer_outside_the_weights_hash_is_noticed_by_the_logits(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    prompt = random_ids(50, 1)
    first = engine(lm, tmp_path)
    first.generate(prompt, **GREEDY)
    first.store_prefix()
    longer = [*prompt, *cold(lm, prompt), 9]
    # A buffer that is not in the state dict is not in the hash of the weights.
    lm.model.model.rotary_emb.inv_freq.mul_(0.5)
    again = engine(lm, tmp_path).generate(longer, **GREEDY)

    assert again["cache"].disk_reason.startswith("logits_differ:")
    assert again["generated_tokens"] == cold(lm, longer)


def test_under_a_hook_nothing_is_kept_on_disk(lm: tt.LoadedModel, tmp_path: Path) -> None:
    generator = engine(lm, tmp_path)
    lm.model.model.layers[0].register_forward_hook(lambda module, inputs, output: None)
    generator.cache_system_prompt(SYSTEM)
    generator.generate("Hello", **GREEDY)

    assert not generator.store_prefix()
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_nothing_is_kept(lm: tt.LoadedModel) -> None:
    generator = tt.ManualGenerator(lm.model, lm.tokenizer)
    generator.cache_system_prompt(SYSTEM)

    assert not generator.store_prefix()


def test_a_run_works_with_a_folder_that_cannot_be_written(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    generator = engine(lm, blocked)
    generator.cache_system_prompt(SYSTEM)
    said = generator.generate("Hello", **GREEDY)

    assert said["cache"].decision == "hit"
    with pytest.raises(OSError):  # noqa: PT011 - the message is the system's
        generator.store_prefix()


def test_a_prefix_larger_than_the_budget_is_used_once_and_not_kept_in_memory(
    lm: tt.LoadedModel, tmp_path: Path
) -> None:
    first = engine(lm, tmp_path)
    prompt = random_ids(300, 1)
    first.generate(prompt, **GREEDY)
    first.store_prefix()
    budget = first.kv_bytes // 4
    second = engine(lm, tmp_path, cache_bytes=budget)
    said = second.generate([*prompt, 9], **GREEDY)

    assert (said["cache"].source, said["cache"].reused_tokens) == ("disk", 300)
    assert said["generated_tokens"] == cold(lm, [*prompt, 9])
    assert second.kv_bytes <= budget


def test_a_prefix_of_another_window_is_not_found(
    make_lm: Callable[..., tt.LoadedModel], tmp_path: Path
) -> None:
    narrow, wide = (make_lm("mistral", sliding_window=size) for size in (16, 64))
    prompt = random_ids(10, 1)
    first = engine(narrow, tmp_path)
    first.generate(prompt, **GREEDY)
    first.store_prefix()
    longer = [*prompt, *cold(narrow, prompt), *random_ids(40, 2)]
    again = engine(wide, tmp_path).generate(longer, **GREEDY)

    assert again["cache"].source == ""
    assert again["generated_tokens"] == cold(wide, longer)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": "null"},
        {"identity": "[1]"},
        {"identity": "[" * 3000},
        {"attributes": "5"},
        {"ids": torch.tensor(5)},
        {"ids": torch.tensor([1.5])},
        {"ids": torch.tensor([[1, 2]])},
        {"sample.ids": torch.tensor([10**6])},
        {"sample.logits": torch.zeros(0)},
        {"0.keys": torch.zeros(3, dtype=torch.float16)},
    ],
    ids=str,
)
def test_a_well_formed_file_with_anything_in_it_is_a_miss(
    change: dict[str, Any], lm: tt.LoadedModel, tmp_path: Path
) -> None:
    first = engine(lm, tmp_path)
    prompt = random_ids(50, 1)
    first.generate(prompt, **GREEDY)
    first.store_prefix()
    file = only_file(tmp_path)
    with safe_open(file, framework="pt") as opened:
        described = dict(opened.metadata())
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for name, value in change.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value
            described["tensors_sha256"] = prefix_folder._tensors_sha256(tensors)
        else:
            described[name] = value
    save_signed(tensors, file, described)
    longer = [*prompt, *cold(lm, prompt), 9]
    again = engine(lm, tmp_path).generate(longer, **GREEDY)

    reason = again["cache"].disk_reason
    assert reason
    assert "signed" not in reason
    assert again["generated_tokens"] == cold(lm, longer)
